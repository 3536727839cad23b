/* dlpack.h - the DLPack interchange structures (dmlc/dlpack, before and after version 1.0), as far as main memory needs them. */
#ifndef WM_DLPACK_H
#define WM_DLPACK_H
#include <stdint.h>

enum { kDLCPU = 1 };
enum { kDLInt = 0, kDLUInt = 1, kDLFloat = 2, kDLBfloat = 4 };
typedef struct { int32_t device_type, device_id; } DLDevice;
typedef struct { uint8_t code, bits; uint16_t lanes; } DLDataType;
typedef struct { void *data; DLDevice device; int32_t ndim; DLDataType dtype; int64_t *shape, *strides; uint64_t byte_offset; } DLTensor;
typedef struct DLManagedTensor { DLTensor dl_tensor; void *manager_ctx; void (*deleter)(struct DLManagedTensor *); } DLManagedTensor;
typedef struct DLManagedTensorVersioned {
    uint32_t major, minor;
    void *manager_ctx;
    void (*deleter)(struct DLManagedTensorVersioned *);
    uint64_t flags;                     /* 1 read-only, 2 a copy */
    DLTensor dl_tensor;
} DLManagedTensorVersioned;
#endif
