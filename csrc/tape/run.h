/* run.h - running one node: shared by the tape and the plan. */
#ifndef WM_RUN_H
#define WM_RUN_H
#include "tape.h"

int  wm_node_forward(wm_node *);      /* check, scratch, forward, guard; 0 or -1 */
void wm_node_clear(wm_node *);        /* accepts half-made nodes */
int  wm_interrupted(void);            /* polls now and then; -1 if asked to stop */
#endif
