/* execute.h - a kernel's blocks, one after the other; threads in turns, warp collectives when every lane has come. */
#pragma once
#include "parse.h"

struct Range {
    u64 a, n;
};
static vector<Range> g_ranges;
static string g_err;
static u64 g_icount;
struct Meet {
    u32 mask = 0, arrived = 0;
};
struct CpA {
    u64 d, s;
    int n, sn;
};
struct Thr {
    vector<u64> r;
    vector<unsigned char> local;
    int pc = 0;
    int st = 0;
    u32 tid[3];
    u32 lin;
    u32 wmask = 0;
    vector<vector<CpA>> cp;
};
static float f_(u64 v) {
    u32 x = (u32)v;
    float f;
    memcpy(&f, &x, 4);
    return f;
}
static u64 u_(float f) {
    u32 x;
    memcpy(&x, &f, 4);
    return x;
}
static double d_(u64 v) {
    double f;
    memcpy(&f, &v, 8);
    return f;
}
static u64 ud_(double f) {
    u64 x;
    memcpy(&x, &f, 8);
    return x;
}
static float bf(u16 h) { return f_((u64)h << 16); }
static u16 tobf(float f) {
    u32 u = (u32)u_(f);
    if (f != f) return 0x7fff;
    return (u16)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
static float toward_zero(double x) {
    float f = (float)x;
    return fabs((double)f) > fabs(x) ? nextafterf(f, 0.0f) : f;
}
static float downward(double x) {
    float f = (float)x;
    return (double)f > x ? nextafterf(f, -INFINITY) : f;
}
struct Exec {
    Kernel& K;
    u32 grid[3], block[3], cta[3];
    vector<unsigned char> shared;
    vector<unsigned char> param;
    vector<Thr> th;
    size_t dynbase = 0;
    Thr* t = nullptr;
    u64 SB = 0;
    unsigned seed;
    [[noreturn]] void bad(const Ins& I, const string& w) {
        char b[200];
        snprintf(b, sizeof b, " [block %u,%u,%u thread %u,%u,%u] ", cta[0], cta[1], cta[2], t->tid[0], t->tid[1],
                 t->tid[2]);
        die(w + b + I.text);
    }
    u64 raw(const Opnd& o) {
        switch (o.k) {
        case Opnd::REG: {
            u64 v = t->r[o.r];
            return o.neg ? !v : v;
        }
        case Opnd::IMM: return o.v == (1u << 30) && !K.dyn.empty() ? dynbase : o.v;
        case Opnd::SREG: {
            int i = (int)o.v;
            return i < 3     ? t->tid[i]
                   : i < 6   ? block[i - 3]
                   : i < 9   ? cta[i - 6]
                   : i < 12  ? grid[i - 9]
                   : i == 12 ? t->lin & 31
                             : t->lin >> 5;
        }
        default: die("operand");
        }
    }
    static u64 norm(u64 v, T t) {
        switch (t) {
        case S8: return (u64)(int64_t)(int8_t)v;
        case S16: return (u64)(int64_t)(int16_t)v;
        case S32: return (u64)(int64_t)(int32_t)v;
        case U8:
        case B8: return (uint8_t)v;
        case U16:
        case B16:
        case F16:
        case BF16: return (u16)v;
        case U64:
        case S64:
        case B64:
        case F64: return v;
        case PRED: return v & 1;
        default: return (u32)v;
        }
    }
    u64 val(const Opnd& o, T ty) { return norm(raw(o), ty); }
    void set(const Opnd& o, u64 v, T ty) {
        t->r[o.r] = sgn(ty) ? norm(v, ty == S32 ? U32 : ty == S16 ? U16 : ty == S64 ? U64 : U8) : norm(v, ty);
    }
    unsigned char* addr(const Ins& I, const Opnd& m, const string& sp, size_t n) {
        u64 a = (m.r >= 0 ? t->r[m.r] : 0) + (u64)m.off;
        if (m.r < 0 && (u64)m.off >= (1u << 30) && !K.dyn.empty()) a = a - (1u << 30) + dynbase;
        if (a % n) bad(I, "misaligned address");
        if (sp == "shared") {
            a = (u32)a;
            if (a + n > shared.size()) bad(I, "shared access out of bounds");
            return shared.data() + a;
        }
        if (sp == "param") return param.data() + a;
        if (sp == "local") {
            if (a + n <= t->local.size()) return t->local.data() + a;
        }
        u64 lb = (u64)t->local.data();
        if (a >= lb && a + n <= lb + t->local.size()) return (unsigned char*)a;
        if (a >= SB && a + n <= SB + shared.size()) return (unsigned char*)a;
        if (!g_ranges.empty() && sp != "const") {
            auto it =
                std::upper_bound(g_ranges.begin(), g_ranges.end(), a, [](u64 x, const Range& r) { return x < r.a; });
            bool ok = it != g_ranges.begin() && (--it, a + n <= it->a + it->n);
            if (!ok && (sp == "global" || sp == "")) bad(I, "global access out of bounds");
        }
        return (unsigned char*)a;
    }
    static bool has(const Ins& I, const char* m) {
        for (auto& x : I.m)
            if (x == m) return true;
        return false;
    }
    static string space(const Ins& I) {
        for (auto& x : I.m)
            if (x == "shared" || x == "global" || x == "local" || x == "param" || x == "const") return x;
        return "";
    }
    static float ftz(const Ins& I, float f) {
        return has(I, "ftz") && fabsf(f) < 1.17549435e-38f ? copysignf(0, f) : f;
    }
    // true: advance; false: blocked (warp-collective or block barrier)
    bool step(const Ins& I) {
        const auto& o = I.o;
        T ty = I.t;
        switch (I.code) {
        case cADD:
            if (ty == F32 && has(I, "rz")) {
                double x = (double)f_(val(o[1], F32)) + (double)f_(val(o[2], F32));
                set(o[0], u_(toward_zero(x)), F32);
            } else if (ty == F32)
                set(o[0], u_(f_(val(o[1], F32)) + f_(val(o[2], F32))), F32);
            else if (ty == F64)
                set(o[0], ud_(d_(raw(o[1])) + d_(raw(o[2]))), F64);
            else
                set(o[0], val(o[1], ty) + val(o[2], ty), ty);
            break;
        case cSUB:
            if (ty == F32)
                set(o[0], u_(f_(val(o[1], F32)) - f_(val(o[2], F32))), F32);
            else if (ty == F64)
                set(o[0], ud_(d_(raw(o[1])) - d_(raw(o[2]))), F64);
            else
                set(o[0], val(o[1], ty) - val(o[2], ty), ty);
            break;
        case cMUL:
            if (ty == F32)
                set(o[0], u_(f_(val(o[1], F32)) * f_(val(o[2], F32))), F32);
            else if (ty == F64)
                set(o[0], ud_(d_(raw(o[1])) * d_(raw(o[2]))), F64);
            else if (has(I, "wide"))
                set(o[0], val(o[1], ty) * val(o[2], ty), ty == S32 || ty == U32 ? U64 : U32);
            else if (has(I, "hi")) {
                if (ty == U32)
                    set(o[0], (val(o[1], ty) * val(o[2], ty)) >> 32, ty);
                else if (ty == S32)
                    set(o[0], (u64)(((int64_t)val(o[1], ty) * (int64_t)val(o[2], ty)) >> 32), ty);
                else
                    set(o[0], (u64)(((unsigned __int128)val(o[1], ty) * val(o[2], ty)) >> 64), ty);
            } else
                set(o[0], val(o[1], ty) * val(o[2], ty), ty);
            break;
        case cMAD:
            if (has(I, "wide"))
                set(o[0], val(o[1], ty) * val(o[2], ty) + raw(o[3]), U64);
            else
                set(o[0], val(o[1], ty) * val(o[2], ty) + val(o[3], ty), ty);
            break;
        case cFMA:
            if (ty == F32 && has(I, "rm")) {
                double x = (double)f_(val(o[1], F32)) * (double)f_(val(o[2], F32)) + (double)f_(val(o[3], F32));
                set(o[0], u_(downward(x)), F32);
            } else if (ty == F32)
                set(o[0], u_(fmaf(f_(val(o[1], F32)), f_(val(o[2], F32)), f_(val(o[3], F32)))), F32);
            else if (ty == F64)
                set(o[0], ud_(fma(d_(raw(o[1])), d_(raw(o[2])), d_(raw(o[3])))), F64);
            else
                bad(I, "fma type");
            break;
        case cDIV:
            if (ty == F32)
                set(o[0], u_(f_(val(o[1], F32)) / f_(val(o[2], F32))), F32);
            else if (ty == F64)
                set(o[0], ud_(d_(raw(o[1])) / d_(raw(o[2]))), F64);
            else if (sgn(ty))
                set(o[0], (u64)((int64_t)val(o[1], ty) / (int64_t)val(o[2], ty)), ty);
            else
                set(o[0], val(o[1], ty) / val(o[2], ty), ty);
            break;
        case cREM:
            if (sgn(ty))
                set(o[0], (u64)((int64_t)val(o[1], ty) % (int64_t)val(o[2], ty)), ty);
            else
                set(o[0], val(o[1], ty) % val(o[2], ty), ty);
            break;
        case cNEG:
            if (ty == F32)
                set(o[0], u_(-f_(val(o[1], F32))), F32);
            else if (ty == F64)
                set(o[0], ud_(-d_(raw(o[1]))), F64);
            else
                set(o[0], -val(o[1], ty), ty);
            break;
        case cABS:
            if (ty == F64)
                set(o[0], ud_(fabs(d_(raw(o[1])))), F64);
            else if (ty == F32)
                set(o[0], u_(fabsf(f_(val(o[1], F32)))), F32);
            else
                set(o[0], (u64)std::llabs((int64_t)val(o[1], ty)), ty);
            break;
        case cMIN:
        case cMAX: {
            bool mx = I.code == cMAX;
            if (ty == F64) {
                double a = d_(raw(o[1])), b = d_(raw(o[2]));
                set(o[0], ud_(mx ? fmax(a, b) : fmin(a, b)), F64);
            } else if (ty == F32) {
                float a = f_(val(o[1], F32)), b = f_(val(o[2], F32));
                set(o[0], u_(mx ? fmaxf(a, b) : fminf(a, b)), F32);
            } else if (sgn(ty)) {
                int64_t a = val(o[1], ty), b = val(o[2], ty);
                set(o[0], (u64)(mx ? std::max(a, b) : std::min(a, b)), ty);
            } else {
                u64 a = val(o[1], ty), b = val(o[2], ty);
                set(o[0], mx ? std::max(a, b) : std::min(a, b), ty);
            }
            break;
        }
        case cAND: set(o[0], val(o[1], ty) & val(o[2], ty), ty); break;
        case cOR: set(o[0], val(o[1], ty) | val(o[2], ty), ty); break;
        case cXOR: set(o[0], val(o[1], ty) ^ val(o[2], ty), ty); break;
        case cNOT: set(o[0], ty == PRED ? !val(o[1], ty) : ~val(o[1], ty), ty); break;
        case cSHL: {
            u64 s = val(o[2], U32);
            set(o[0], s >= (u64)tsz(ty) * 8 ? 0 : val(o[1], ty) << s, ty);
            break;
        }
        case cSHR: {
            u64 s = val(o[2], U32), w = tsz(ty) * 8;
            if (sgn(ty))
                set(o[0], (u64)((int64_t)val(o[1], ty) >> std::min<u64>(s, w - 1)), ty);
            else
                set(o[0], s >= w ? 0 : val(o[1], ty) >> s, ty);
            break;
        }
        case cSETP: {
            const string& c = I.m[0];
            bool r;
            if (ty == F32 || ty == F64) {
                double a = ty == F32 ? f_(val(o[1], F32)) : d_(raw(o[1])),
                       b = ty == F32 ? f_(val(o[2], F32)) : d_(raw(o[2]));
                bool un = a != a || b != b;
                string q = c;
                bool u = q.size() == 3 && q[2] == 'u';
                if (u) q = q.substr(0, 2);
                r = q == "eq"    ? a == b
                    : q == "ne"  ? a != b && !un
                    : q == "lt"  ? a < b
                    : q == "le"  ? a <= b
                    : q == "gt"  ? a > b
                    : q == "ge"  ? a >= b
                    : q == "nan" ? un
                    : q == "num" ? !un
                                 : (bad(I, "cmp"), false);
                if (u && un) r = true;
            } else {
                u64 a = val(o[1], ty), b = val(o[2], ty);
                int64_t sa = a, sb = b;
                bool s = sgn(ty);
                r = c == "eq"   ? a == b
                    : c == "ne" ? a != b
                    : c == "lt" ? (s ? sa < sb : a < b)
                    : c == "le" ? (s ? sa <= sb : a <= b)
                    : c == "gt" ? (s ? sa > sb : a > b)
                    : c == "ge" ? (s ? sa >= sb : a >= b)
                                : (bad(I, "cmp"), false);
            }
            if (I.m[1] == "and" || I.m[1] == "or") {
                bool p = val(o[3], PRED);
                r = I.m[1] == "and" ? r && p : r || p;
            }
            set(o[0], r, PRED);
            break;
        }
        case cSELP: set(o[0], val(o[3], PRED) ? val(o[1], ty) : val(o[2], ty), ty); break;
        case cMOV:
            if (o[0].k == Opnd::VEC) {
                u64 v = raw(o[1]);
                int w = tsz(ty) * 8 / (int)o[0].e.size();
                for (size_t i = 0; i < o[0].e.size(); i++)
                    t->r[o[0].e[i].r] = (v >> (i * w)) & (w == 64 ? ~0ull : (1ull << w) - 1);
            } else if (o[1].k == Opnd::VEC) {
                u64 v = 0;
                int w = tsz(ty) * 8 / (int)o[1].e.size();
                for (size_t i = 0; i < o[1].e.size(); i++) v |= (raw(o[1].e[i]) & ((1ull << w) - 1)) << (i * w);
                t->r[o[0].r] = v;
            } else
                set(o[0], val(o[1], ty), ty);
            break;
        case cCVT: {
            T d = I.t, s = I.t2;
            if (d == BF16X2) {
                set(o[0], tobf(f_(val(o[2], F32))) | (u32)tobf(f_(val(o[1], F32))) << 16, U32);
                break;
            }
            if (d == BF16) {
                set(o[0], tobf(f_(val(o[1], F32))), U16);
                break;
            }
            if (s == BF16) {
                set(o[0], u_(bf((u16)raw(o[1]))), F32);
                break;
            }
            if (s == F32 || s == F64) {
                double a = s == F32 ? f_(val(o[1], F32)) : d_(raw(o[1]));
                if (d == F32) {
                    float f = (float)a;
                    if (has(I, "rni")) f = nearbyintf(f);
                    if (has(I, "rzi")) f = truncf(f);
                    if (has(I, "sat")) f = f > 0.0f ? (f < 1.0f ? f : 1.0f) : 0.0f;
                    set(o[0], u_(ftz(I, f)), F32);
                } else if (d == F64)
                    set(o[0], ud_(has(I, "rni") ? nearbyint(a) : a), F64);
                else {
                    a = has(I, "rni") ? nearbyint(a) : has(I, "rmi") ? floor(a) : has(I, "rpi") ? ceil(a) : trunc(a);
                    if (sgn(d))
                        set(o[0], (u64)(int64_t)a, d);
                    else
                        set(o[0], a < 0 ? 0 : (u64)a, d);
                }
            } else {
                u64 a = val(o[1], s);
                if (d == F32)
                    set(o[0], u_(sgn(s) ? (float)(int64_t)a : (float)a), F32);
                else if (d == F64)
                    set(o[0], ud_(sgn(s) ? (double)(int64_t)a : (double)a), F64);
                else
                    set(o[0], a, d);
            }
            break;
        }
        case cCVTA: {
            bool to = has(I, "to");
            string sp = space(I);
            u64 a = raw(o[1]);
            if (sp == "shared") a = to ? a - SB : a + SB;
            if (sp == "local") a = to ? a - (u64)t->local.data() : a + (u64)t->local.data();
            set(o[0], a, U64);
            break;
        }
        case cLD: {
            string sp = space(I);
            int n = tsz(ty);
            unsigned char* p = addr(I, o[1], sp, (size_t)n * I.vec);
            for (int i = 0; i < I.vec; i++) {
                u64 v = 0;
                memcpy(&v, p + i * n, n);
                const Opnd& d = I.vec > 1 ? o[0].e[i] : o[0];
                if (sgn(ty)) v = norm(v, ty);
                t->r[d.r] = sgn(ty) && n < 4 ? (u32)v : sgn(ty) && n == 4 ? (u32)v : v;
            }
            break;
        }
        case cST: {
            string sp = space(I);
            int n = tsz(ty);
            unsigned char* p = addr(I, o[0], sp, (size_t)n * I.vec);
            for (int i = 0; i < I.vec; i++) {
                u64 v = raw(I.vec > 1 ? o[1].e[i] : o[1]);
                memcpy(p + i * n, &v, n);
            }
            break;
        }
        case cATOM: {
            string sp = space(I);
            bool red = I.op == "red";
            int k = red ? 0 : 1;
            int n = tsz(ty);
            unsigned char* p = addr(I, o[k], sp, n);
            u64 old = 0;
            memcpy(&old, p, n);
            u64 b = val(o[k + 1], ty), nv;
            if (has(I, "add"))
                nv = ty == F32 ? u_(f_(old) + f_(b)) : ty == F64 ? ud_(d_(old) + d_(b)) : old + b;
            else if (has(I, "max"))
                nv = sgn(ty) ? (u64)std::max<int64_t>(norm(old, ty), b) : std::max(old, b);
            else
                bad(I, "atom");
            memcpy(p, &nv, n);
            if (!red) set(o[0], old, ty);
            break;
        }
        case cEX2: set(o[0], u_(ftz(I, exp2f(ftz(I, f_(val(o[1], F32)))))), F32); break;
        case cLG2: set(o[0], u_(log2f(f_(val(o[1], F32)))), F32); break;
        case cRSQRT:
            if (ty == F64) {
                u64 b = ud_(1.0 / sqrt(d_(raw(o[1]))));
                if (has(I, "approx")) b &= ~0xffffffffull;
                set(o[0], b, F64);
            } else
                set(o[0], u_(1.0f / sqrtf(f_(val(o[1], F32)))), F32);
            break;
        case cSQRT:
            if (ty == F64)
                set(o[0], ud_(sqrt(d_(raw(o[1])))), F64);
            else
                set(o[0], u_(sqrtf(f_(val(o[1], F32)))), F32);
            break;
        case cRCP:
            if (ty == F64) {
                double r = 1.0 / d_(raw(o[1]));
                u64 b = ud_(r);
                if (has(I, "approx")) b &= ~0xffffffffull;
                set(o[0], b, F64);
            } else
                set(o[0], u_(1.0f / f_(val(o[1], F32))), F32);
            break;
        case cSIN: set(o[0], u_(sinf(f_(val(o[1], F32)))), F32); break;
        case cCOS: set(o[0], u_(cosf(f_(val(o[1], F32)))), F32); break;
        case cBFI: {
            u64 a = raw(o[1]), b = raw(o[2]);
            unsigned p = val(o[3], U32) & 255, l = val(o[4], U32) & 255;
            u64 m = (l >= 64 ? ~0ull : (1ull << l) - 1) << p;
            set(o[0], (b & ~m) | ((a << p) & m), ty);
            break;
        }
        case cPOPC: set(o[0], __builtin_popcountll(val(o[1], ty)), U32); break;
        case cSHF: {
            u64 lo = val(o[1], U32), hi = val(o[2], U32);
            unsigned s = val(o[3], U32);
            s = has(I, "wrap") ? s & 31 : std::min(s, 32u);
            u64 c = hi << 32 | lo;
            set(o[0], has(I, "l") ? (c << s) >> 32 : c >> s, U32);
            break;
        }
        case cPRMT: {
            u64 c = val(o[2], U32) << 32 | val(o[1], U32);
            u32 s = val(o[3], U32), r = 0;
            for (int i = 0; i < 4; i++) {
                u32 q = s >> (4 * i) & 15;
                u32 b = c >> ((q & 7) * 8) & 255;
                if (q & 8) b = b & 128 ? 255 : 0;
                r |= b << (8 * i);
            }
            set(o[0], r, U32);
            break;
        }
        case cLOP3: {
            u32 a = val(o[1], U32), b = val(o[2], U32), c = val(o[3], U32), l = val(o[4], U32), r = 0;
            for (int i = 0; i < 8; i++)
                if (l >> i & 1) r |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
            set(o[0], r, U32);
            break;
        }
        case cCOPYSIGN: set(o[0], u_(copysignf(f_(val(o[2], F32)), f_(val(o[1], F32)))), F32); break;
        case cDP4A: {
            u32 a = (u32)val(o[1], U32), b = (u32)val(o[2], U32);
            int c = (int)val(o[3], S32);
            for (int i = 0; i < 4; i++) c += (int)(int8_t)(a >> 8 * i) * (int)(int8_t)(b >> 8 * i);
            set(o[0], (u64)(int64_t)c, S32);
            break;
        }
        case cFENCE: break;
        case cTRAP: bad(I, "trap");
        case cCPA:
            if (has(I, "commit_group")) {
                if (t->cp.empty()) t->cp.emplace_back();
                t->cp.emplace_back();
            } else if (has(I, "wait_group") || has(I, "wait_all")) {
                int n = has(I, "wait_all") ? -1 : (int)raw(o[0]);
                while (!t->cp.empty() && (int)t->cp.size() - 1 > n) {
                    for (auto& c : t->cp[0]) {
                        memcpy((void*)c.d, (void*)c.s, c.sn);
                        memset((char*)c.d + c.sn, 0, c.n - c.sn);
                    }
                    t->cp.erase(t->cp.begin());
                }
            } else {
                int n = (int)raw(o[2]), sn = o.size() > 3 ? (int)val(o[3], U32) : n;
                if (t->cp.empty()) t->cp.emplace_back();
                t->cp.back().push_back(
                    {(u64)addr(I, o[0], "shared", n), (u64)addr(I, o[1], sn ? "global" : "none", n), n, sn});
            }
            break;
        default: bad(I, "not implemented");
        }
        return true;
    }
    void collective(const Ins& I, vector<Thr*>& g, u32 mask) { // all lanes of mask at the same instruction
        const auto& o = I.o;
        vector<u64> a(32, 0);
        Thr* L[32] = {};
        for (auto* x : g) L[x->lin & 31] = x;
        if (I.code == cSHFL) {
            const string& md = I.m[1];
            for (int l = 0; l < 32; l++)
                if (L[l]) {
                    t = L[l];
                    a[l] = raw(o[1]);
                }
            for (int l = 0; l < 32; l++)
                if (L[l]) {
                    t = L[l];
                    u32 b = val(o[2], U32), c = val(o[3], U32), seg = (c >> 8) & 31, cl = c & 31,
                        maxl = (l & seg) | (cl & ~seg), minl = l & seg;
                    int j;
                    bool p;
                    if (md == "up") {
                        j = l - (int)(b & 31);
                        p = j >= (int)maxl;
                    } else if (md == "down") {
                        j = l + (b & 31);
                        p = j <= (int)maxl;
                    } else if (md == "bfly") {
                        j = l ^ (b & 31);
                        p = j <= (int)maxl;
                    } else {
                        j = minl | ((b & 31) & ~seg);
                        p = j <= (int)maxl;
                    }
                    if (!p) j = l;
                    if (!L[j]) bad(I, "shuffle reads a lane outside the mask");
                    t->r[o[0].r] = (u32)a[j];
                    if (o[0].r2 >= 0) t->r[o[0].r2] = p;
                }
        } else if (I.code == cVOTE) {
            u32 b = 0;
            for (int l = 0; l < 32; l++)
                if (L[l]) {
                    t = L[l];
                    if (val(o[1], PRED)) b |= 1u << l;
                }
            for (int l = 0; l < 32; l++)
                if (L[l]) {
                    t = L[l];
                    t->r[o[0].r] = has(I, "ballot") ? b : has(I, "any") ? b != 0 : b == mask;
                }
        } else if (I.code == cLDM) {
            u16 rows[32][8];
            int nm = has(I, "x4") ? 4 : has(I, "x2") ? 2 : 1;
            bool tr = has(I, "trans");
            for (int l = 0; l < nm * 8; l++) {
                t = L[l];
                memcpy(rows[l], addr(I, o[1], "shared", 16), 16);
            }
            for (int l = 0; l < 32; l++) {
                t = L[l];
                for (int m = 0; m < nm; m++) {
                    u16 lo = tr ? rows[m * 8 + 2 * (l % 4)][l / 4] : rows[m * 8 + l / 4][2 * (l % 4)],
                        hi = tr ? rows[m * 8 + 2 * (l % 4) + 1][l / 4] : rows[m * 8 + l / 4][2 * (l % 4) + 1];
                    const Opnd& d = o[0].k == Opnd::VEC ? o[0].e[m] : o[0];
                    t->r[d.r] = lo | (u32)hi << 16;
                }
            }
        } else if (I.code == cMMA) {
            if (!has(I, "m16n8k16") || !has(I, "bf16")) die("mma shape: " + I.text);
            float A[16][16], B[16][8], Cc[16][8];
            for (int l = 0; l < 32; l++) {
                t = L[l];
                int gq = l >> 2, q = l & 3;
                for (int r = 0; r < 4; r++) {
                    u32 v = (u32)raw(o[1].e[r]);
                    for (int i = 0; i < 2; i++)
                        A[gq + (r & 1) * 8][q * 2 + i + (r >> 1) * 8] = bf((u16)(v >> (16 * i)));
                }
                for (int r = 0; r < 2; r++) {
                    u32 v = (u32)raw(o[2].e[r]);
                    for (int i = 0; i < 2; i++) B[q * 2 + i + r * 8][gq] = bf((u16)(v >> (16 * i)));
                }
                for (int r = 0; r < 4; r++) Cc[gq + (r >> 1) * 8][q * 2 + (r & 1)] = f_(val(o[3].e[r], F32));
            }
            for (int i = 0; i < 16; i++)
                for (int j = 0; j < 8; j++) {
                    float s = Cc[i][j];
                    for (int k = 0; k < 16; k++) s += A[i][k] * B[k][j];
                    Cc[i][j] = s;
                }
            for (int l = 0; l < 32; l++) {
                t = L[l];
                int gq = l >> 2, q = l & 3;
                for (int r = 0; r < 4; r++) t->r[o[0].e[r].r] = u_(Cc[gq + (r >> 1) * 8][q * 2 + (r & 1)]);
            }
        }
    }
    static bool is_coll(const Ins& I) {
        return I.code == cSHFL || I.code == cVOTE || I.code == cLDM || I.code == cMMA ||
               (I.code == cBAR && has(I, "warp"));
    }
    void launch() {
        u32 nt = block[0] * block[1] * block[2];
        dynbase = (K.shared + 127) / 128 * 128;
        for (cta[2] = 0; cta[2] < grid[2]; cta[2]++)
            for (cta[1] = 0; cta[1] < grid[1]; cta[1]++)
                for (cta[0] = 0; cta[0] < grid[0]; cta[0]++) {
                    std::fill(shared.begin(), shared.end(), 0xFF);
                    SB = (u64)shared.data();
                    th.assign(nt, Thr());
                    for (u32 i = 0; i < nt; i++) {
                        Thr& x = th[i];
                        x.lin = i;
                        x.r.assign(K.nreg, 0);
                        x.local.assign(K.local + 16, 0xFF);
                        x.tid[0] = i % block[0];
                        x.tid[1] = i / block[0] % block[1];
                        x.tid[2] = i / block[0] / block[1];
                    }
                    u32 done = 0;
                    while (done < nt) {
                        bool moved = false;
                        for (u32 ii = 0; ii < nt; ii++) {
                            u32 i = seed & 1 ? nt - 1 - ii : ii;
                            Thr& x = th[i];
                            if (x.st) continue;
                            moved = true;
                            t = &x;
                            while (true) {
                                const Ins& I = K.code[x.pc];
                                g_icount++;
                                if (I.pred >= 0 && (x.r[I.pred] != 0) == I.pneg) {
                                    x.pc++;
                                    continue;
                                }
                                if (I.code == cBRA) {
                                    x.pc = I.target;
                                    continue;
                                }
                                if (I.code == cRET) {
                                    x.st = 9;
                                    done++;
                                    break;
                                }
                                if (I.code == cBAR && !has(I, "warp")) {
                                    x.st = 1;
                                    break;
                                }
                                if (is_coll(I)) {
                                    x.st = 2;
                                    x.wmask = I.code == cSHFL   ? val(I.o[4], U32)
                                              : I.code == cVOTE ? val(I.o[2], U32)
                                              : I.code == cBAR  ? val(I.o[0], U32)
                                                                : 0xffffffffu;
                                    break;
                                }
                                step(I);
                                x.pc++;
                            }
                        }
                        // warp collectives that are complete
                        for (u32 w = 0; w < (nt + 31) / 32; w++) {
                            u32 lim = std::min(nt, w * 32 + 32);
                            std::set<std::pair<int, u32>> seen;
                            for (u32 i = w * 32; i < lim; i++)
                                if (th[i].st == 2 && seen.insert({th[i].pc, th[i].wmask}).second) {
                                    vector<Thr*> g;
                                    u32 have = 0, exist = 0;
                                    for (u32 j = w * 32; j < lim; j++) {
                                        exist |= 1u << (j & 31);
                                        if (th[j].st == 2 && th[j].pc == th[i].pc && th[j].wmask == th[i].wmask) {
                                            g.push_back(&th[j]);
                                            have |= 1u << (j & 31);
                                        }
                                    }
                                    if (have == (th[i].wmask & exist)) {
                                        collective(K.code[th[i].pc], g, have);
                                        for (auto* q : g) {
                                            q->st = 0;
                                            q->pc++;
                                        }
                                        moved = true;
                                    }
                                }
                        }
                        u32 bar = 0;
                        for (auto& x : th) bar += x.st == 1;
                        if (bar && bar + done == nt) {
                            for (auto& x : th)
                                if (x.st == 1) {
                                    x.st = 0;
                                    x.pc++;
                                }
                            moved = true;
                        }
                        if (!moved && done < nt) {
                            string w;
                            for (auto& x : th)
                                if (x.st == 1 || x.st == 2) {
                                    t = &x;
                                    w = K.code[x.pc].text;
                                    break;
                                }
                            die("deadlock in " + K.name + " at: " + w);
                        }
                    }
                }
    }
};
