# accrete_experiment(NAME SOURCE...): one self-contained program with the common options; see apps/experiment.h.
function(accrete_experiment name)
  add_executable(${name} ${ARGN})
  target_link_libraries(${name} PRIVATE accrete::apps)
endfunction()
