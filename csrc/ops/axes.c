/* axes.c - axes, walks and indices. */
#include "axes.h"

int wm_axis(const wm_node *n, const wm_tensor *x, int64_t axis) {
    if (axis >= -x->ndim && axis < x->ndim) return (int)(axis < 0 ? axis + x->ndim : axis);
    char text[96];
    return wm_fail("%s: there is no axis %lld in shape %s", n->op->name, (long long)axis, wm_shape_text(x, text, sizeof text));
}

int64_t wm_size_between(const wm_tensor *x, int first, int end) {
    int64_t size = 1;
    for (int d = first; d < end; d++) size *= x->shape[d];
    return size;
}

void wm_walk_axis(wm_walk *w, int64_t length, int64_t stride) {
    if (w->ndim == 1 && w->shape[0] == 1) w->ndim = 0;
    if (w->ndim && (length == 1 || w->stride[w->ndim - 1] == length * stride)) {
        if (length == 1) return;
        w->shape[w->ndim - 1] *= length, w->stride[w->ndim - 1] = stride;
        return;
    }
    w->shape[w->ndim] = length, w->stride[w->ndim++] = stride;
}

int wm_check_index(const wm_node *n, const wm_tensor *index, int64_t limit) {
    const int32_t *numbers = wm_read(index);
    if (!numbers) return -1;
    int failed = 0;
    for (int64_t i = 0; i < index->size && !failed; i++)
        if (numbers[i] < 0 || numbers[i] >= limit)
            failed = wm_fail_as(WM_INDEX, "%s: number %lld of the indices is %d, outside 0..%lld", n->op->name, (long long)i,
                                numbers[i], (long long)limit - 1);
    wm_read_done(index, numbers);
    return failed;
}
