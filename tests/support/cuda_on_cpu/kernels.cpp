// Both kernels as functions that the tests call; compiled with the macros of plugins/kernels/variants.py.
#include "up.cu"

#define load load_down
#define kLoaderRegisters kDownLoaderRegisters
#define kMultiplierRegisters kDownMultiplierRegisters
#include "down.cu"
#undef load
#undef kLoaderRegisters
#undef kMultiplierRegisters

extern "C" void run_up(int blocks, unsigned seed, const acm::TensorMap* w1_map, const unsigned char* x, const int* order,
                       const int* reach, const unsigned short* b1, int* arrivals, unsigned short* hidden, const int* sizes) {
  Machine::instance().run(blocks, seed, [=] {
    acm::up_hopper(*w1_map, x, order, reach, b1, arrivals, hidden, sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]);
  });
}

extern "C" void run_down(int blocks, unsigned seed, const acm::TensorMap* hidden_map, const acm::TensorMap* w2_map,
                         const int* order, const int* reach, const unsigned short* b2,
                         int* arrivals, unsigned short* y, const int* sizes) {
  Machine::instance().run(blocks, seed, [=] {
    acm::down_hopper(*hidden_map, *w2_map, order, reach, b2, arrivals, y, sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]);
  });
}
