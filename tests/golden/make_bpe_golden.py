#!/usr/bin/env python3
"""Writes bpe.json: a byte-level BPE trained and applied by Hugging Face tokenizers, to compare with.

    python3 tests/golden/make_bpe_golden.py > tests/golden/bpe.json       (made with tokenizers 0.23.3)
"""
import json
import random

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

rng = random.Random(7)
syllables = ["ka", "to", "mi", "ra", "sen", "lo", "qu", "ing", "er", "th", "é", "ß", "日", "本", "और", "🙂", "don't", "12", "7"]
words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(60)]
text = "".join(rng.choice(words) + rng.choices([" ", "  ", "\n", "\n\n", ", ", "\t", "'s "], [8, 1, 1, 1, 2, 1, 1])[0]
               for _ in range(400))

trained = Tokenizer(models.BPE())
trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
trained.post_processor = processors.ByteLevel(trim_offsets=False)
trained.decoder = decoders.ByteLevel()
trained.train_from_iterator([text], trainers.BpeTrainer(
    vocab_size=400, min_frequency=2, special_tokens=["<|endoftext|>"],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
before = json.loads(trained.to_str())

trained.add_tokens([AddedToken("<both>", lstrip=True, rstrip=True), AddedToken("<raw>", normalized=False),
                    AddedToken("kato", single_word=True), AddedToken("<raw>er", normalized=False)])
samples = [text[:200], "", " ", "<|endoftext|>", "a <both>  b<raw>c", "<raw>er<raw>e", "kato katora kato, _kato kato",
           "  \n  x", "kato<both> \n kato", "don't DON'T we'll <|endoftext|>\n\nmi", "日本 और 🙂\u00a0x\u2003y", "\r\n\t é"]
print(json.dumps({
    "text": text,
    "trained": {"vocab": before["model"]["vocab"], "merges": before["model"]["merges"]},
    "tokenizer": json.loads(trained.to_str()),
    "samples": [{"text": s, "ids": trained.encode(s).ids} for s in samples],
}, ensure_ascii=True, separators=(",", ":")))
