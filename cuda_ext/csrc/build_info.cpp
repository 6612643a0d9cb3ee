// What this library holds, read by fusion3d.ops.native. The builder defines both macros.
extern "C" __attribute__((visibility("default"))) const char* fusion3d_torch_headers() { return FUSION3D_TORCH; }
extern "C" __attribute__((visibility("default"))) const char* fusion3d_cuda_targets() { return FUSION3D_CUDA_TARGETS; }
