// A kept tape as a picture: every op with its module, shapes, cost, time and what it keeps for backward.
//
//   Tape tape({.keep_nodes = true, .profile = true});
//   backward(model.loss(batch, ctx));
//   write(graph_json(tape)), write(graph_dot(tape));
//
// Memory that is kept for backward is counted once, at the first op that keeps it; parameters and input data are there
// anyway and count nothing.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "engine/autograd/tape.h"

namespace accrete {

// {"totals": {ops, flops, bytes, backward_flops, backward_bytes, seconds, backward_seconds, saved_bytes},
//  "modules": [{"path", and the same numbers for everything inside}],            "" is the whole step; parents first
//  "nodes": [{"id", "op", "module", "dtype",
//             "inputs": [{"shape", "dtype", and one of
//                         "node" + "output" (its producer), "parameter" (name of a leaf), "constant": true}],
//             "outputs": [shape], the numbers, "saved": [{"shape", "dtype", "bytes", "segment", "counted"}]}]}
// Ids count from 0 in the order in which the ops ran. Absent inputs (no bias) are null. Seconds are 0 unless the tape
// profiled.
nlohmann::ordered_json graph_json(const Tape& tape);

// The same for Graphviz: modules are nested clusters, edges carry shapes, leaves are ellipses.
std::string graph_dot(const Tape& tape);

}  // namespace accrete
