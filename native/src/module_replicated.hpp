// The part of the Python module for the local steps of the replicated protocol.
#pragma once

#include <nanobind/nanobind.h>

namespace tercet {

void bind_replicated(nanobind::module_& m);

}  // namespace tercet
