/* op.c - one function calls any op; its arguments, defaults, errors and docstring come from the op's spec (tape.h). */
#include "binding.h"
#include <ctype.h>
#include <stdlib.h>

enum { ARGS = WM_IN + WM_ATTR + 1 };

typedef struct { PyObject *name; wm_dtype dtype; bool optional, rest; } input;
typedef struct { PyObject *name; char kind, words[160]; bool required; wm_attr value; } attribute;

/* An op's call signature, read once from its spec. */
typedef struct {
    const wm_op *op;
    PyTypeObject *Tensor;
    int n_in, n_attr;
    input in[WM_IN];
    attribute attr[ARGS - WM_IN];
    PyMethodDef def;
    char doc[4096];
} signature;

/* ---- reading a spec --------------------------------------------------------------------------- */

static wm_dtype dtype_named(const char *s, size_t n) {
    static const struct { const char *word; wm_dtype dtype; } words[] = {
        {"f32", WM_F32}, {"bf16", WM_BF16}, {"u8", WM_U8}, {"i32", WM_I32}, {"any", WM_ANY}, {"weight", WM_WEIGHT}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strlen(words[i].word) == n && !strncmp(words[i].word, s, n)) return words[i].dtype;
    return WM_F32;
}

static PyObject *interned(const char *s, size_t n) {
    PyObject *u = PyUnicode_FromStringAndSize(s, (Py_ssize_t)n);
    if (u) PyUnicode_InternInPlace(&u);
    return u;
}

/* "x", "weight@weight", "bias?", "index@i32?", "xs..." */
static int read_input(signature *s, const char *w, size_t len) {
    size_t name = 0;
    while (name < len && (isalnum((unsigned char)w[name]) || w[name] == '_')) name++;
    input *in = &s->in[s->n_in++];
    const char *p = w + name, *end = w + len;
    if (p < end && *p == '@') {
        const char *d = ++p;
        while (p < end && isalnum((unsigned char)*p)) p++;
        in->dtype = dtype_named(d, (size_t)(p - d));
    }
    in->optional = p < end && *p == '?';
    in->rest = p < end && *p == '.';
    return (in->name = interned(w, name)) ? 0 : -1;
}

/* "eps:f=1e-6", "act:e=none|gelu", "shape:t" */
static int read_attribute(signature *s, const char *w, size_t len, const char *colon) {
    attribute *a = &s->attr[s->n_attr++];
    const char *value = memchr(w, '=', len);
    a->kind = colon[1];
    a->required = !value;
    size_t n = value ? (size_t)(w + len - value - 1) : 0;
    if (n >= sizeof a->words) n = sizeof a->words - 1;
    if (value) memcpy(a->words, value + 1, n);
    a->words[n] = 0;
    if (a->kind == 'f') a->value.f = value ? strtod(a->words, NULL) : 0;
    else if (a->kind == 'i' || a->kind == 'b') a->value.i = value ? strtoll(a->words, NULL, 10) : 0;
    return (a->name = interned(w, (size_t)(colon - w))) ? 0 : -1;
}

static int read_spec(signature *s) {
    for (const char *p = s->op->spec; *p; p += *p == ' ') {
        size_t len = strcspn(p, " ");
        if (!strncmp(p, "->", 2)) break;      /* names of the results: for stubs */
        const char *colon = memchr(p, ':', len);
        if ((colon ? read_attribute(s, p, len, colon) : read_input(s, p, len)) < 0) return -1;
        p += len;
    }
    return 0;
}

/* "name(x, weight, bias=None, act='none')\n--\n\n" and the doc: inspect.signature reads the first line. */
static void write_doc(signature *s) {
    char *d = s->doc, *end = s->doc + sizeof s->doc;
    const char *sep = "";
    bool defaults = false;      /* behind an optional argument a required one reads "=...": Python wants it so */
    d += snprintf(d, (size_t)(end - d), "%s(", s->op->name);
    for (int i = 0; i < s->n_in; defaults |= s->in[i++].optional, sep = ", ")
        d += snprintf(d, (size_t)(end - d), "%s%s%s%s", sep, s->in[i].rest ? "*" : "", PyUnicode_AsUTF8(s->in[i].name), s->in[i].optional ? "=None" : defaults ? "=..." : "");
    for (int i = 0; i < s->n_attr; i++, sep = ", ") {
        const attribute *a = &s->attr[i];
        d += snprintf(d, (size_t)(end - d), "%s%s", sep, PyUnicode_AsUTF8(a->name));
        if (a->required) {
            if (defaults) d += snprintf(d, (size_t)(end - d), "=...");
            continue;
        }
        defaults = true;
        if (a->kind == 'e') d += snprintf(d, (size_t)(end - d), "='%.*s'", (int)strcspn(a->words, "|"), a->words);
        else if (a->kind == 'b') d += snprintf(d, (size_t)(end - d), "=%s", a->value.i ? "True" : "False");
        else if (a->kind == 't') d += snprintf(d, (size_t)(end - d), "=()");
        else d += snprintf(d, (size_t)(end - d), "=%s", a->words);
    }
    snprintf(d, (size_t)(end - d), ")\n--\n\n%s", s->op->doc);
}

/* ---- calling ---------------------------------------------------------------------------------- */

typedef struct {
    wm_tensor *in[WM_IN];
    int n_in, n_list;
    wm_attr attr[WM_ATTR];
    int64_t list[WM_DIMS];
} call;

static int take_tensor(const signature *s, call *c, const input *in, PyObject *v) {
    if (c->n_in >= WM_IN) return PyErr_Format(PyExc_TypeError, "%s: at most %d tensors", s->op->name, WM_IN), -1;
    if (!v || v == Py_None) {
        if (!in->optional) return PyErr_Format(PyExc_TypeError, "%s: argument %U is missing", s->op->name, in->name), -1;
        return c->in[c->n_in++] = NULL, 0;
    }
    if (!PyObject_TypeCheck(v, s->Tensor))
        return PyErr_Format(PyExc_TypeError, "%s: %U must be a Tensor, not %s", s->op->name, in->name, Py_TYPE(v)->tp_name), -1;
    wm_tensor *t = ((TensorObject *)v)->t;
    bool fits = in->dtype == WM_ANY || t->dtype == in->dtype || (in->dtype == WM_WEIGHT && (t->dtype == WM_F32 || t->dtype == WM_BF16));
    if (!fits)
        return PyErr_Format(PyExc_TypeError, "%s: %U must be %s, not %s", s->op->name, in->name, wm_dtype_name(in->dtype),
                            wm_dtype_name((wm_dtype)t->dtype)), -1;
    if (!t->raw) return PyErr_Format(PyExc_RuntimeError, "%s: %U belongs to a checkpoint and holds no numbers now", s->op->name, in->name), -1;
    c->in[c->n_in++] = t;
    return 0;
}

static int take_word(const signature *s, const attribute *a, PyObject *v, wm_attr *out) {
    const char *word = PyUnicode_Check(v) ? PyUnicode_AsUTF8(v) : NULL;
    size_t n = word ? strlen(word) : 0;
    int64_t at = 0;
    for (const char *w = a->words; word; w += strcspn(w, "|") + 1, at++) {
        if (strcspn(w, "|") == n && !strncmp(w, word, n)) return out->i = at, 0;
        if (!w[strcspn(w, "|")]) break;
    }
    return PyErr_Format(PyExc_ValueError, "%s: %U must be one of %s, not %R", s->op->name, a->name, a->words, v), -1;
}

static int take_list(const signature *s, call *c, const attribute *a, PyObject *v) {
    PyObject *fast = PyLong_Check(v) ? PyTuple_Pack(1, v) : PySequence_Tuple(v);
    if (!fast) return PyErr_Format(PyExc_TypeError, "%s: %U must be integers, not %R", s->op->name, a->name, v), -1;
    Py_ssize_t n = PyTuple_GET_SIZE(fast);
    if (n > WM_DIMS) PyErr_Format(PyExc_ValueError, "%s: %U has %zd numbers, at most %d are possible", s->op->name, a->name, n, WM_DIMS);
    for (Py_ssize_t i = 0; i < n && !PyErr_Occurred(); i++) {
        PyObject *index = PyNumber_Index(PyTuple_GET_ITEM(fast, i));
        c->list[i] = index ? PyLong_AsLongLong(index) : -1;
        Py_XDECREF(index);
    }
    Py_DECREF(fast);
    c->n_list = (int)n;
    return PyErr_Occurred() ? -1 : 0;
}

static int take_attribute(const signature *s, call *c, int i, PyObject *v) {
    const attribute *a = &s->attr[i];
    int slot = 0;                               /* a tuple takes no slot in attr */
    for (int j = 0; j < i; j++) slot += s->attr[j].kind != 't';
    if (!v) {
        if (a->required) return PyErr_Format(PyExc_TypeError, "%s: argument %U is missing", s->op->name, a->name), -1;
        if (a->kind != 't') c->attr[slot] = a->value;
        return 0;
    }
    if (a->kind == 't') return take_list(s, c, a, v);
    if (a->kind == 'e') return take_word(s, a, v, &c->attr[slot]);
    if (a->kind == 'f') c->attr[slot].f = PyFloat_AsDouble(v);
    else if (a->kind == 'b') c->attr[slot].i = PyObject_IsTrue(v);
    else {
        PyObject *index = PyNumber_Index(v);
        c->attr[slot].i = index ? PyLong_AsLongLong(index) : -1;
        Py_XDECREF(index);
    }
    if (!PyErr_Occurred()) return 0;
    PyErr_Clear();
    return PyErr_Format(PyExc_TypeError, "%s: %U must be %s, not %R", s->op->name, a->name, a->kind == 'f' ? "a number" : "an integer", v), -1;
}

/* Positional and keyword arguments into one slot per name; what lies past a "xs..." input goes to it. */
static int sort_arguments(const signature *s, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, PyObject **slot) {
    int names = s->n_in + s->n_attr;
    for (Py_ssize_t i = 0; i < nargs; i++) slot[i] = args[i];
    for (Py_ssize_t k = 0; kwnames && k < PyTuple_GET_SIZE(kwnames); k++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, k);
        int i = 0;
        for (; i < names; i++) {
            PyObject *mine = i < s->n_in ? s->in[i].name : s->attr[i - s->n_in].name;
            if (mine == name || PyUnicode_Compare(mine, name) == 0) break;
        }
        if (i == names) return PyErr_Format(PyExc_TypeError, "%s: there is no argument %U", s->op->name, name), -1;
        if (slot[i]) return PyErr_Format(PyExc_TypeError, "%s: argument %U is given twice", s->op->name, name), -1;
        slot[i] = args[nargs + k];
    }
    return 0;
}

static int gather_arguments(const signature *s, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, call *c) {
    PyObject *slot[ARGS] = {0};
    bool rest = s->n_in && s->in[s->n_in - 1].rest;
    Py_ssize_t fixed = rest ? s->n_in - 1 : s->n_in + s->n_attr, own = nargs < fixed ? nargs : fixed;
    if (nargs > fixed && !rest)
        return PyErr_Format(PyExc_TypeError, "%s: at most %zd arguments, %zd given", s->op->name, fixed, nargs), -1;
    if (sort_arguments(s, args, own, NULL, slot) < 0) return -1;
    if (kwnames) {      /* keywords lie behind all positional ones */
        PyObject *kw[ARGS] = {0};
        if (sort_arguments(s, args + nargs, 0, kwnames, kw) < 0) return -1;
        for (int i = 0; i < s->n_in + s->n_attr; i++) {
            if (kw[i] && slot[i])
                return PyErr_Format(PyExc_TypeError, "%s: argument %d is given twice", s->op->name, i + 1), -1;
            if (kw[i]) slot[i] = kw[i];
        }
    }
    for (int i = 0; i < s->n_in - rest; i++)
        if (take_tensor(s, c, &s->in[i], slot[i]) < 0) return -1;
    if (rest) {
        if (nargs == fixed) return PyErr_Format(PyExc_TypeError, "%s: no tensors given", s->op->name), -1;
        for (Py_ssize_t i = fixed; i < nargs; i++)
            if (take_tensor(s, c, &s->in[s->n_in - 1], args[i]) < 0) return -1;
    }
    for (int i = 0; i < s->n_attr; i++)
        if (take_attribute(s, c, i, slot[s->n_in + i]) < 0) return -1;
    return 0;
}

static PyObject *wrap_outputs(const signature *s, wm_tensor **out) {
    if (!out[1]) return wm_wrap(s->Tensor, out[0]);
    int n = out[2] ? 3 : 2;
    PyObject *tuple = PyTuple_New(n);
    for (int i = 0; i < n; i++) {
        PyObject *o = tuple ? wm_wrap(s->Tensor, out[i]) : NULL;
        if (!o) { if (!tuple) wm_drop(out[i]); Py_CLEAR(tuple); } else PyTuple_SET_ITEM(tuple, i, o);
    }
    return tuple;
}

static PyObject *call_op(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    const signature *s = PyCapsule_GetPointer(self, NULL);
    call c = {.n_in = 0};
    if (gather_arguments(s, args, nargs, kwnames, &c) < 0) return NULL;
    wm_tensor *out[WM_OUT] = {0};
    int failed;
    Py_BEGIN_ALLOW_THREADS
    failed = wm_apply(s->op, c.in, c.n_in, c.attr, c.list, c.n_list, out);
    Py_END_ALLOW_THREADS
    return failed ? wm_raise() : wrap_outputs(s, out);
}

/* ---- one Python function per op --------------------------------------------------------------- */

static void forget(PyObject *capsule) {
    signature *s = PyCapsule_GetPointer(capsule, NULL);
    for (int i = 0; i < s->n_in; i++) Py_XDECREF(s->in[i].name);
    for (int i = 0; i < s->n_attr; i++) Py_XDECREF(s->attr[i].name);
    Py_XDECREF((PyObject *)s->Tensor);
    PyMem_Free(s);
}

static PyObject *function_for(const wm_op *op, PyTypeObject *Tensor, PyObject *module_name) {
    signature *s = PyMem_Calloc(1, sizeof *s);
    if (!s) return PyErr_NoMemory();
    PyObject *capsule = PyCapsule_New(s, NULL, forget);
    if (!capsule) { PyMem_Free(s); return NULL; }
    s->op = op, s->Tensor = (PyTypeObject *)Py_NewRef((PyObject *)Tensor);
    PyObject *f = NULL;
    if (read_spec(s) == 0) {
        write_doc(s);
        s->def = (PyMethodDef){op->name, (PyCFunction)(void (*)(void))call_op, METH_FASTCALL | METH_KEYWORDS, s->doc};
        f = PyCFunction_NewEx(&s->def, capsule, module_name);
    }
    Py_DECREF(capsule);
    return f;
}

/* module.ops = {name: function}, module.specs = {name: (spec, doc, has a gradient)} */
int wm_add_ops(PyObject *module, module_state *st) {
    PyObject *ops = PyDict_New(), *specs = PyDict_New(), *name = PyUnicode_FromString("worldmodel.ops");
    int failed = !ops || !specs || !name;
    for (int f = 0; wm_op_families[f] && !failed; f++)
        for (int i = 0; wm_op_families[f][i] && !failed; i++) {
            const wm_op *op = wm_op_families[f][i];
            PyObject *function = function_for(op, st->Tensor, name);
            PyObject *spec = function ? Py_BuildValue("(ssO)", op->spec, op->doc, op->backward ? Py_True : Py_False) : NULL;
            failed = !spec || PyDict_SetItemString(ops, op->name, function) < 0 || PyDict_SetItemString(specs, op->name, spec) < 0;
            Py_XDECREF(spec);
            Py_XDECREF(function);
        }
    failed = failed || PyModule_AddObjectRef(module, "ops", ops) < 0 || PyModule_AddObjectRef(module, "specs", specs) < 0;
    Py_XDECREF(name);
    Py_XDECREF(specs);
    Py_XDECREF(ops);
    return failed ? -1 : 0;
}
