/* dlpack.c - numbers shared with whoever speaks DLPack, both ways, without copying.

   def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None): ...
   def __dlpack_device__(self): ...
   def from_dlpack(source): ...

   On CUDA all our work is on one stream of our own, and others' on theirs, so (array API standard, __dlpack__):
   (1) out: the consumer names its stream (None and 1: the legacy default, 2: each thread's default, -1: no waiting, more: an
       address), which waits for ours; when it lets go, ours waits for its, since the block may be handed out again at once;
   (2) in: we name ours, which the producer makes wait; before we let go, we wait until ours is done. */
#include "binding.h"
#include "dlpack.h"

static const DLDataType dl_types[] = {[WM_F32] = {kDLFloat, 32, 1}, [WM_BF16] = {kDLBfloat, 16, 1}, [WM_U8] = {kDLUInt, 8, 1}, [WM_I32] = {kDLInt, 32, 1}};
static const int dl_devices[] = {[WM_CPU] = kDLCPU, [WM_CUDA] = kDLCUDA};

/* ---- out ---------------------------------------------------------------------------------------- */

enum { LEGACY = 1, PER_THREAD = 2, NO_WAITING = -1 };

/* Consumers of version 1.0 pass max_version and get the versioned form, which says that they may write. */
typedef struct {
    union { DLManagedTensor old; DLManagedTensorVersioned managed; };
    int64_t shape[WM_DIMS];
    intptr_t stream;
} dlpack_export;

/* The legacy default stream lives as long as the program; any other may be gone, so all are waited for. */
static void export_ends(dlpack_export *e, wm_memory *memory) {
    wm_device_enter(memory->device);
    if (memory->device) wm_devices[memory->device]->wait_for(e->stream == LEGACY ? LEGACY : WM_ALL_STREAMS);
    wm_device_leave(memory->device);
    wm_export_ends(memory);
    free(e);
}
static void delete_old(DLManagedTensor *m) { export_ends((dlpack_export *)m, m->manager_ctx); }
static void delete_versioned(DLManagedTensorVersioned *m) { export_ends((dlpack_export *)m, m->manager_ctx); }

static void capsule_ends(PyObject *capsule) {        /* a consumer that took it has renamed it and owns it now */
    if (PyCapsule_IsValid(capsule, "dltensor")) delete_old(PyCapsule_GetPointer(capsule, "dltensor"));
    else if (PyCapsule_IsValid(capsule, "dltensor_versioned")) delete_versioned(PyCapsule_GetPointer(capsule, "dltensor_versioned"));
}

/* The stream that is to wait, as (1) numbers it; -2 with an exception. */
static intptr_t stream_of(PyObject *stream, int device) {
    if (stream == Py_None) return LEGACY;
    long long s = PyLong_Check(stream) ? PyLong_AsLongLong(stream) : -2;
    if (s == -1 && PyErr_Occurred()) return -2;
    if (device && s >= NO_WAITING && s != 0) return (intptr_t)s;
    PyErr_Format(PyExc_BufferError, device ? "__dlpack__: stream must be None, -1, 1, 2 or a stream's address, not %R"
                                           : "__dlpack__: numbers in main memory have no stream, so None, not %R", stream);
    return -2;
}

/* Where the consumer wants the numbers: a device of ours, or -1 with an exception. */
static int device_of(PyObject *wanted, const wm_tensor *t) {
    int type, id;
    if (wanted == Py_None) return t->device;
    if (!PyArg_ParseTuple(wanted, "ii;__dlpack__: dl_device must be (type, id)", &type, &id)) return -1;
    for (int d = 0; d < WM_DEVICES; d++)
        if (type == dl_devices[d] && id == 0) {
            if (wm_device_open(d) == 0) return d;
            wm_raise();
            return -1;
        }
    PyErr_Format(PyExc_BufferError, "__dlpack__: device (%d, %d) is none of ours", type, id);
    return -1;
}

/* t, kept, or a copy of it. */
static wm_tensor *to_export(wm_tensor *t, int device, bool copy) {
    size_t bytes = (size_t)t->size * wm_dtype_size((wm_dtype)t->dtype);
    if (!copy) return wm_keep(t);
    wm_tensor *c = wm_tensor_new(device, (wm_dtype)t->dtype, t->ndim, t->shape);
    if (c && wm_copy_between(device, c->raw, t->device, t->raw, bytes) < 0) wm_drop(c), c = NULL;
    if (!c) wm_raise();
    return c;
}

static PyObject *capsule_of(const wm_tensor *t, bool versioned, bool copied, intptr_t stream) {
    dlpack_export *e = calloc(1, sizeof *e);
    if (!e) return PyErr_NoMemory();
    for (int i = 0; i < t->ndim; i++) e->shape[i] = t->shape[i];
    DLTensor numbers = {t->raw, {dl_devices[t->device], 0}, t->ndim, dl_types[t->dtype], e->shape, NULL, 0};
    if (versioned) e->managed = (DLManagedTensorVersioned){1, 0, t->memory, delete_versioned, copied ? DL_COPIED : 0, numbers};
    else e->old = (DLManagedTensor){numbers, t->memory, delete_old};
    e->stream = stream;
    PyObject *capsule = PyCapsule_New(e, versioned ? "dltensor_versioned" : "dltensor", capsule_ends);
    if (!capsule) { free(e); return NULL; }
    wm_export_begins(t->memory);
    return capsule;
}

PyObject *wm_dlpack(TensorObject *o, PyObject *args, PyObject *kw) {
    static char *names[] = {"stream", "max_version", "dl_device", "copy", NULL};
    PyObject *stream = Py_None, *version = Py_None, *where = Py_None, *copy = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "|$OOOO:__dlpack__", names, &stream, &version, &where, &copy)) return NULL;
    if (wm_awake(o->t) < 0) return NULL;
    const int device = device_of(where, o->t);
    const intptr_t waits = device < 0 ? -2 : stream_of(stream, device);
    if (waits == -2) return NULL;
    if (copy == Py_False && device != o->t->device)
        return PyErr_Format(PyExc_BufferError, "__dlpack__: the numbers lie on %s, and copy=False", wm_device_name(o->t->device));
    const bool copies = copy == Py_True || device != o->t->device;
    wm_tensor *t = to_export(o->t, device, copies);
    if (!t) return NULL;
    bool versioned = PyTuple_Check(version) && PyTuple_GET_SIZE(version) && PyLong_AsLong(PyTuple_GET_ITEM(version, 0)) >= 1;
    PyObject *capsule = PyErr_Occurred() ? NULL : capsule_of(t, versioned, copies, waits);
    wm_drop(t);
    wm_device_enter(device);
    int failed = capsule && device && waits != NO_WAITING && wm_devices[device]->let_wait(waits) < 0;
    if (failed) wm_device_failed(device, "__dlpack__");
    wm_device_leave(device);
    if (!failed) return capsule;
    Py_DECREF(capsule);
    return wm_raise();
}

PyObject *wm_dlpack_device(TensorObject *o, PyObject *unused) {
    (void)unused;
    return Py_BuildValue("(ii)", dl_devices[o->t->device], 0);
}

/* ---- in ----------------------------------------------------------------------------------------- */

static void release(void *managed) {
    DLManagedTensor *m = managed;
    if (m->dl_tensor.device.device_type != kDLCPU) wm_device_wait(WM_CUDA);
    PyGILState_STATE g = PyGILState_Ensure();
    if (m->deleter) m->deleter(m);
    PyGILState_Release(g);
}

/* The device of ours on which a DLPack device lies; -1, with wm_error set, if there is none. */
static int ours(int type, int id) {
    if (type == kDLCPU) return WM_CPU;
    if (type != kDLCUDA && type != kDLCUDAManaged)
        return wm_fail("from_dlpack: the numbers lie on device type %d, neither in main memory nor on CUDA", type);
    if (id) return wm_fail("from_dlpack: the numbers lie on CUDA device %d, ours is 0", id);
    return wm_device_open(WM_CUDA) < 0 ? -1 : WM_CUDA;
}

static wm_tensor *adopt(DLManagedTensor *m) {
    const DLTensor *d = &m->dl_tensor;
    const int device = ours(d->device.device_type, d->device.device_id);
    int dtype = WM_F32;
    if (device < 0) return NULL;
    while (dtype <= WM_I32 && memcmp(&dl_types[dtype], &d->dtype, sizeof d->dtype)) dtype++;
    if (dtype > WM_I32) return wm_fail_as(WM_TYPE, "from_dlpack: numbers must be float32, bfloat16, uint8 or int32, not type code %d of %d bits",
                                          d->dtype.code, d->dtype.bits), NULL;
    if (d->ndim > WM_DIMS) return wm_fail("from_dlpack: %d axes, at most %d are possible", d->ndim, WM_DIMS), NULL;
    if (((uintptr_t)d->data + d->byte_offset) % wm_dtype_size((wm_dtype)dtype)) return wm_fail("from_dlpack: the numbers are not aligned"), NULL;
    int64_t stride = 1;
    for (int i = d->ndim; i-- > 0; stride *= d->shape[i])
        if (d->strides && d->shape[i] > 1 && d->strides[i] != stride) return wm_fail("from_dlpack: the numbers are not contiguous"), NULL;
    return wm_tensor_borrow(device, (wm_dtype)dtype, (char *)d->data + d->byte_offset, d->ndim, d->shape, m, release);
}

/* What the source's __dlpack__ is to be told (2): nothing, or our stream.  NULL with an exception. */
static PyObject *words_for(PyObject *source) {
    PyObject *device = PyObject_CallMethod(source, "__dlpack_device__", NULL);
    int type = kDLCPU, id = 0;
    if (!device) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError)) return NULL;
        PyErr_Clear();
    } else if (!PyTuple_Check(device) || !PyArg_ParseTuple(device, "ii", &type, &id)) {
        if (!PyErr_Occurred()) PyErr_Format(PyExc_TypeError, "from_dlpack: __dlpack_device__ gives %R, not (type, id)", device);
        Py_DECREF(device);
        return NULL;
    }
    Py_XDECREF(device);
    const int here = ours(type, id);
    if (here < 0) return wm_raise();
    return here ? Py_BuildValue("{s:n}", "stream", (Py_ssize_t)wm_devices[here]->stream()) : PyDict_New();
}

static PyObject *from_dlpack(PyObject *module, PyObject *source) {
    module_state *st = PyModule_GetState(module);
    PyObject *words = words_for(source), *none = words ? PyTuple_New(0) : NULL;
    PyObject *method = none ? PyObject_GetAttrString(source, "__dlpack__") : NULL;
    PyObject *capsule = method ? PyObject_Call(method, none, words) : NULL;
    Py_XDECREF(words), Py_XDECREF(none), Py_XDECREF(method);
    if (!capsule) return NULL;
    DLManagedTensor *m = PyCapsule_GetPointer(capsule, "dltensor");
    wm_tensor *t = m ? adopt(m) : NULL;
    if (t) PyCapsule_SetName(capsule, "used_dltensor");
    Py_DECREF(capsule);
    return m ? wm_wrap(st->Tensor, t) : NULL;
}

PyMethodDef wm_dlpack_functions[] = {
    {"from_dlpack", from_dlpack, METH_O, "from_dlpack(source)\n--\n\nA Tensor that shares the numbers of any object that speaks DLPack, in main memory or on CUDA."},
    {0},
};
