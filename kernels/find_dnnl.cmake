# DNNL::dnnl: oneDNN by header and library, or by its own CMake package where it is installed somewhere else. In this order
# because Debian's package file insists on OpenCL, which a machine without its headers does not have.
find_path(DNNL_INCLUDE oneapi/dnnl/dnnl.hpp)
find_library(DNNL_LIBRARY dnnl)
if(NOT TARGET DNNL::dnnl AND DNNL_INCLUDE AND DNNL_LIBRARY)
  add_library(DNNL::dnnl UNKNOWN IMPORTED)
  set_target_properties(DNNL::dnnl PROPERTIES IMPORTED_LOCATION ${DNNL_LIBRARY}
                        INTERFACE_INCLUDE_DIRECTORIES ${DNNL_INCLUDE})
elseif(NOT TARGET DNNL::dnnl)
  find_package(dnnl QUIET CONFIG)
endif()
