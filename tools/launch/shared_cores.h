#pragma once

namespace palimpsest::tools {

// Daemons started after this let each other have the cores: one of OpenMP's threads that waits for
// its team spins for some ten microseconds, as long as it takes between two regions of a decode
// step, and then sleeps. (By itself it spins for milliseconds, or, told PASSIVE alone, not at all,
// which makes such a step half as long again.) libgomp reads this when it is loaded, so it must be
// there before exec. Values of the user's stay.
void ShareCores();

}  // namespace palimpsest::tools
