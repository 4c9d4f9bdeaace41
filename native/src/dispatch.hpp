// Which kernels this process uses: chosen once from the processor's abilities.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kernels.hpp"

namespace tercet {

// The table in use. One atomic load: cheap, and safe while another thread calls set_isa.
const KernelTable& kernels() noexcept;

// "amx", "avx512", "avx2", "portable", or "amx-always", which takes AMX for products of every size,
// for tests and measurements; throws std::invalid_argument for a path that is unknown or that this
// processor cannot run.
void set_isa(std::string_view name);

// Best first; "portable" is always there.
std::vector<std::string> available_isas();

}  // namespace tercet
