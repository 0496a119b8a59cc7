#define TOKENFLOW_KERNELS kAvx512Kernels
#include "cpu/kernels.inc"
