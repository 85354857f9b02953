#!/usr/bin/env bash
# Fetches a public data set from its official address, checks it, and unpacks it.
#
#   bash data/download.sh NAME [--out DIR] [--mirror URL]
#
#   NAME          wikitext-2 wikitext-103 tinyshakespeare cifar10 cifar100 mnist fashion-mnist imagenette
#   --out DIR     folder for the data set (default: datasets/NAME)
#   --mirror URL  take the same file names from URL/ instead (http, https or file)
#
# Files are put in place only after their checksum was compared; what is already there and right is not fetched again.
# Needs curl or wget, tar, and for wikitext-103 unzip or python3.
set -euo pipefail

names="wikitext-2 wikitext-103 tinyshakespeare cifar10 cifar100 mnist fashion-mnist imagenette"
die() { printf 'download: %s\n' "$*" >&2; exit 1; }
usage() { sed -n '2,12s/^# \{0,1\}//p' "$0"; }

# One file a line: address, algorithm:checksum. The checksums are those that the publishers of the data sets or of the
# usual loaders state; the texts' were computed from files of known origin.
files() {
  local cifar=https://www.cs.toronto.edu/~kriz mnist=https://ossci-datasets.s3.amazonaws.com/mnist
  local fashion=https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion
  local wikitext=https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data/wikitext-2
  case $1 in
    wikitext-2) cat <<TABLE
$wikitext/train.txt sha256:9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f
$wikitext/valid.txt sha256:f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8
$wikitext/test.txt sha256:d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0
TABLE
      ;;
    wikitext-103) echo https://wikitext.smerity.com/wikitext-103-v1.zip md5:9ddaacaf6af0710eda8c456decff7832 ;;
    tinyshakespeare) cat <<TABLE
https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed
TABLE
      ;;
    cifar10) echo $cifar/cifar-10-binary.tar.gz md5:c32a1d4ab5d03f1284b67883e8d87530 ;;
    cifar100) echo $cifar/cifar-100-binary.tar.gz md5:03b5dce01913d631647c71ecec9e9cb8 ;;
    mnist) cat <<TABLE
$mnist/train-images-idx3-ubyte.gz md5:f68b3c2dcbeaaa9fbdd348bbdeb94873
$mnist/train-labels-idx1-ubyte.gz md5:d53e105ee54ea40749a09fcbcd1e9432
$mnist/t10k-images-idx3-ubyte.gz md5:9fb629c4189551a2d022fa330f9573f3
$mnist/t10k-labels-idx1-ubyte.gz md5:ec29112dd5afa0611ce80d1b7f02629c
TABLE
      ;;
    fashion-mnist) cat <<TABLE
$fashion/train-images-idx3-ubyte.gz md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d
$fashion/train-labels-idx1-ubyte.gz md5:25c81989df183df01b3e8a0aad5dffbe
$fashion/t10k-images-idx3-ubyte.gz md5:bef4ecab320f06d8554ea6380940ec79
$fashion/t10k-labels-idx1-ubyte.gz md5:bb300cfdad3c16e7a12a480ee83cd310
TABLE
      ;;
    imagenette) echo https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-320.tgz md5:3df6f0d01a2c9592104656642f5e78a3 ;;
    *) die "unknown data set \"$1\"; expected one of: $names" ;;
  esac
}

fetch() {  # address, file
  case $1 in
    file://*) cp -- "${1#file://}" "$2" ;;
    *) if command -v curl >/dev/null; then curl -fL --retry 3 -o "$2" -- "$1"
       elif command -v wget >/dev/null; then wget -O "$2" -- "$1"
       else die "neither curl nor wget is installed"; fi ;;
  esac || { rm -f "$2"; die "cannot fetch $1"; }
}

sum_is() {  # file, algorithm:checksum
  [ "$("${2%%:*}sum" "$1" | cut -d' ' -f1)" = "${2#*:}" ]
}

unpack() {  # archive in the folder of the data set
  case $1 in
    *.tar.gz|*.tgz) tar -xzf "$1" --strip-components=1 ;;
    *.zip)
      if command -v unzip >/dev/null; then unzip -qo "$1"
      elif command -v python3 >/dev/null; then python3 -m zipfile -e "$1" .
      else die "unzip or python3 is needed to unpack $1"; fi
      for split in train valid test; do mv -f "wikitext-103/wiki.$split.tokens" "$split.txt"; done
      rmdir wikitext-103 ;;
  esac
}

name="" out="" mirror=""
while [ $# -gt 0 ]; do
  case $1 in
    -h|--help) usage; exit 0 ;;
    --out|--mirror) [ $# -ge 2 ] || die "$1 needs a value"; [ "$1" = --out ] && out=$2 || mirror=${2%/}; shift ;;
    -*) die "unknown option $1; see --help" ;;
    *) [ -z "$name" ] || die "one data set at a time; got \"$name\" and \"$1\""; name=$1 ;;
  esac
  shift
done
[ -n "$name" ] || die "no data set is named; expected one of: $names"
table=$(files "$name")
out=${out:-datasets/$name}
mkdir -p "$out" || die "cannot create $out"
cd "$out"
while read -r address checksum; do
  file=${address##*/}
  [ -z "$mirror" ] || address=$mirror/$file
  if [ -f "$file" ] && sum_is "$file" "$checksum"; then
    echo "$file: already here"
  else
    echo "$file: from $address"
    fetch "$address" "$file.part"
    sum_is "$file.part" "$checksum" || { rm -f "$file.part"; die "$address is not the expected file: its checksum differs from $checksum"; }
    mv -f "$file.part" "$file"
  fi
  unpack "$file"
done <<< "$table"
echo "$name is in $PWD"
