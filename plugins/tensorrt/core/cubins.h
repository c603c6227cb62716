#pragma once

extern "C" __attribute__((visibility("hidden"))) const unsigned char acm_cubins[];
