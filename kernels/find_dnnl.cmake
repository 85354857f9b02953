# DNNL::dnnl: oneDNN by its own CMake package, or by header and library where a distribution brings no CMake files.
find_package(dnnl QUIET CONFIG)
if(NOT TARGET DNNL::dnnl)
  find_path(DNNL_INCLUDE oneapi/dnnl/dnnl.hpp)
  find_library(DNNL_LIBRARY dnnl)
  if(DNNL_INCLUDE AND DNNL_LIBRARY)
    add_library(DNNL::dnnl UNKNOWN IMPORTED)
    set_target_properties(DNNL::dnnl PROPERTIES IMPORTED_LOCATION ${DNNL_LIBRARY}
                          INTERFACE_INCLUDE_DIRECTORIES ${DNNL_INCLUDE})
  endif()
endif()
