# An offline bundle (scripts/offline-bundle.sh) brings every library but CUDA's in deps/; anywhere else this file
# does nothing.
set(deps ${CMAKE_SOURCE_DIR}/deps)
if(NOT EXISTS ${deps}/usr)
  return()
endif()
message(STATUS "Libraries come from ${deps}")
list(PREPEND CMAKE_PREFIX_PATH ${deps}/usr)
set(PKG_CONFIG_EXECUTABLE ${deps}/usr/bin/pkgconf CACHE FILEPATH "pkg-config executable")
set(ENV{PKG_CONFIG_SYSROOT_DIR} ${deps})
set(ENV{PKG_CONFIG_LIBDIR} ${deps}/usr/lib/x86_64-linux-gnu/pkgconfig:${deps}/usr/share/pkgconfig)
# The compiler is not the one whose warnings are known.
set(FAIRWAY_WERROR OFF CACHE BOOL "Treat warnings as errors")
