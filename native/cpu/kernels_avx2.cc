#define TOKENFLOW_KERNELS kAvx2Kernels
#include "cpu/kernels.inc"
