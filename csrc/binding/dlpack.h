/* dlpack.h - the DLPack interchange structures (dmlc/dlpack, before and after version 1.0). */
#ifndef WM_DLPACK_H
#define WM_DLPACK_H
#include <stdint.h>

enum { kDLCPU = 1, kDLCUDA = 2, kDLCUDAManaged = 13 };
enum { DL_READ_ONLY = 1, DL_COPIED = 2 };      /* flags */
enum { kDLInt = 0, kDLUInt = 1, kDLFloat = 2, kDLBfloat = 4 };
typedef struct { int32_t device_type, device_id; } DLDevice;
typedef struct { uint8_t code, bits; uint16_t lanes; } DLDataType;
typedef struct { void *data; DLDevice device; int32_t ndim; DLDataType dtype; int64_t *shape, *strides; uint64_t byte_offset; } DLTensor;
typedef struct DLManagedTensor { DLTensor dl_tensor; void *manager_ctx; void (*deleter)(struct DLManagedTensor *); } DLManagedTensor;
typedef struct DLManagedTensorVersioned {
    uint32_t major, minor;
    void *manager_ctx;
    void (*deleter)(struct DLManagedTensorVersioned *);
    uint64_t flags;
    DLTensor dl_tensor;
} DLManagedTensorVersioned;
#endif
