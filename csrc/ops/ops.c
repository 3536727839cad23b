/* ops.c - the list of all ops, by family.  A new family is a file beside this one and two words here. */
#include "../tape/tape.h"

#define FAMILIES(X) X(linear) X(attention) X(rotary) X(conv) X(norm) X(pointwise) X(reduce) X(shape) X(gather) X(embed) X(random) \
                    X(scan) X(loss) X(categorical) X(gaussian) X(diffuse) X(image)
#define DECLARE(family) extern const wm_op *const wm_ops_##family[];
FAMILIES(DECLARE)
#define LIST(family) wm_ops_##family,
const wm_op *const *const wm_op_families[] = {FAMILIES(LIST) NULL};
