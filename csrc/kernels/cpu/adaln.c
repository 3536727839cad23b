/* adaln: the gated residual of an AdaLN block, out = residual + gate x, one gate a group of rows. */

static void gate_forward(float *out, const float *residual, const float *x, const wm_modulation *m, int64_t R, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (R * C > 1 << 16)
    for (int64_t r = 0; r < R; r++) {
        const float *gate = m->factor + r / m->rows * m->step_factor;
        for (int64_t c = 0; c < C; c++) out[r * C + c] = residual[r * C + c] + gate[c] * x[r * C + c];
    }
}

/* dresidual += dout, dx += dout gate, dgate += sum over the group's rows of dout x; each may be NULL.
   scratch: C numbers a chunk of NORM_CHUNK rows of a group. */
static void gate_backward(float *dresidual, float *dx, float *dgate, const float *dout, const float *x, const wm_modulation *m,
                          float *scratch, int64_t R, int64_t C) {
    int64_t groups = R / m->rows, chunks = (m->rows + NORM_CHUNK - 1) / NORM_CHUNK;
    #pragma omp parallel for num_threads(wm_threads) if (R * C > 1 << 16)
    for (int64_t i = 0; i < groups * chunks; i++) {
        int64_t g = i / chunks, first = i % chunks * NORM_CHUNK, last = first + NORM_CHUNK < m->rows ? first + NORM_CHUNK : m->rows;
        const float *gate = m->factor + g * m->step_factor;
        float *part = chunks == 1 && dgate ? dgate + g * m->step_factor : scratch + i * C;
        if (chunks > 1 && dgate) memset(part, 0, (size_t)C * sizeof *part);
        for (int64_t r = g * m->rows + first; r < g * m->rows + last; r++) {
            const float *d = dout + r * C, *from = x + r * C;
            float *to = dresidual + r * C, *to_x = dx + r * C;
            if (dgate) for (int64_t c = 0; c < C; c++) part[c] += d[c] * from[c];
            if (dresidual) for (int64_t c = 0; c < C; c++) to[c] += d[c];
            if (dx) for (int64_t c = 0; c < C; c++) to_x[c] += d[c] * gate[c];
        }
    }
    if (chunks > 1 && dgate) norm_add_chunks(dgate, m->step_factor, scratch, C, groups, chunks, C);
}
