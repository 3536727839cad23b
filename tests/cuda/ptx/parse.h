/* parse.h - PTX text to kernels of instructions: registers numbered, labels resolved, addresses laid out. */
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>
using std::string;
using std::vector;
typedef uint64_t u64;
typedef uint32_t u32;
typedef uint16_t u16;
enum T { B8, U8, S8, B16, U16, S16, B32, U32, S32, B64, U64, S64, F32, F64, PRED, F16, BF16, F16X2, BF16X2, NOT };
static const std::map<string, T> TY = {
    {"b8", B8},     {"u8", U8},   {"s8", S8},     {"b16", B16},     {"u16", U16},      {"s16", S16}, {"b32", B32},
    {"u32", U32},   {"s32", S32}, {"b64", B64},   {"u64", U64},     {"s64", S64},      {"f32", F32}, {"f64", F64},
    {"pred", PRED}, {"f16", F16}, {"bf16", BF16}, {"f16x2", F16X2}, {"bf16x2", BF16X2}};
static int tsz(T t) {
    switch (t) {
    case B8:
    case U8:
    case S8: return 1;
    case B16:
    case U16:
    case S16:
    case F16:
    case BF16: return 2;
    case B64:
    case U64:
    case S64:
    case F64: return 8;
    default: return 4;
    }
}
static bool sgn(T t) { return t == S8 || t == S16 || t == S32 || t == S64; }
struct Opnd {
    enum K { REG, IMM, MEM, VEC, SREG } k = REG;
    int r = -1;
    u64 v = 0;
    int64_t off = 0;
    bool neg = false;
    vector<Opnd> e;
    int r2 = -1;
};
struct Ins {
    string op;
    vector<string> m;
    T t = NOT, t2 = NOT;
    int pred = -1;
    bool pneg = false;
    vector<Opnd> o;
    int target = -1;
    string label, text;
    int vec = 1;
    int code = 0;
};
enum C {
    cADD = 1,
    cSUB,
    cMUL,
    cMAD,
    cFMA,
    cDIV,
    cREM,
    cNEG,
    cABS,
    cMIN,
    cMAX,
    cAND,
    cOR,
    cXOR,
    cNOT,
    cSHL,
    cSHR,
    cSETP,
    cSELP,
    cMOV,
    cCVT,
    cCVTA,
    cLD,
    cST,
    cBRA,
    cRET,
    cBAR,
    cSHFL,
    cEX2,
    cLG2,
    cRSQRT,
    cSQRT,
    cRCP,
    cSIN,
    cCOS,
    cBFI,
    cPOPC,
    cATOM,
    cMMA,
    cLDM,
    cCPA,
    cFENCE,
    cSHF,
    cPRMT,
    cLOP3,
    cVOTE,
    cTRAP,
    cCOPYSIGN,
    cDP4A,
    cXOR3
};
static const std::map<string, int> CODE = {{"copysign", cCOPYSIGN},
                                           {"dp4a", cDP4A},
                                           {"add", cADD},
                                           {"sub", cSUB},
                                           {"mul", cMUL},
                                           {"mad", cMAD},
                                           {"fma", cFMA},
                                           {"div", cDIV},
                                           {"rem", cREM},
                                           {"neg", cNEG},
                                           {"abs", cABS},
                                           {"min", cMIN},
                                           {"max", cMAX},
                                           {"and", cAND},
                                           {"or", cOR},
                                           {"xor", cXOR},
                                           {"not", cNOT},
                                           {"shl", cSHL},
                                           {"shr", cSHR},
                                           {"setp", cSETP},
                                           {"selp", cSELP},
                                           {"mov", cMOV},
                                           {"cvt", cCVT},
                                           {"cvta", cCVTA},
                                           {"ld", cLD},
                                           {"st", cST},
                                           {"bra", cBRA},
                                           {"ret", cRET},
                                           {"exit", cRET},
                                           {"bar", cBAR},
                                           {"barrier", cBAR},
                                           {"shfl", cSHFL},
                                           {"ex2", cEX2},
                                           {"lg2", cLG2},
                                           {"rsqrt", cRSQRT},
                                           {"sqrt", cSQRT},
                                           {"rcp", cRCP},
                                           {"sin", cSIN},
                                           {"cos", cCOS},
                                           {"bfi", cBFI},
                                           {"popc", cPOPC},
                                           {"atom", cATOM},
                                           {"red", cATOM},
                                           {"mma", cMMA},
                                           {"ldmatrix", cLDM},
                                           {"cp", cCPA},
                                           {"membar", cFENCE},
                                           {"fence", cFENCE},
                                           {"shf", cSHF},
                                           {"prmt", cPRMT},
                                           {"lop3", cLOP3},
                                           {"vote", cVOTE},
                                           {"trap", cTRAP}};
struct Param {
    string name;
    size_t off, size;
};
struct Kernel {
    string name;
    vector<Param> params;
    size_t psize = 0;
    vector<Ins> code;
    std::map<string, int> reg;
    size_t shared = 0, local = 0;
    std::map<string, size_t> sh, lo;
    int nreg = 0;
    string dyn;
};
struct Module {
    std::map<string, Kernel> k;
    std::map<string, vector<unsigned char>> glob;
    std::set<string> extern_shared;
};
static string trim(string s) {
    size_t a = s.find_first_not_of(" \t\n\r"), b = s.find_last_not_of(" \t\n\r");
    return a == string::npos ? "" : s.substr(a, b - a + 1);
}
static vector<string> split(const string& s, char c) {
    vector<string> r;
    int d = 0;
    string x;
    for (char ch : s) {
        if (ch == '{' || ch == '[') d++;
        if (ch == '}' || ch == ']') d--;
        if (ch == c && d == 0) {
            r.push_back(trim(x));
            x.clear();
        } else
            x += ch;
    }
    if (!trim(x).empty()) r.push_back(trim(x));
    return r;
}
[[noreturn]] static void die(const string& s) { throw std::runtime_error("ptxi: " + s); }
struct Parser {
    Module& M;
    Kernel* K = nullptr;
    std::map<string, int> labels;
    size_t align(size_t x, size_t a) { return (x + a - 1) / a * a; }
    int reg(const string& n) {
        auto it = K->reg.find(n);
        if (it != K->reg.end()) return it->second;
        int i = K->nreg++;
        K->reg[n] = i;
        return i;
    }
    Opnd opnd(string s) {
        s = trim(s);
        Opnd o;
        if (s[0] == '{') {
            o.k = Opnd::VEC;
            for (auto& x : split(s.substr(1, s.size() - 2), ',')) o.e.push_back(opnd(x));
            return o;
        }
        if (s[0] == '[') {
            o.k = Opnd::MEM;
            string x = s.substr(1, s.size() - 2);
            size_t p = x.find('+');
            string b = trim(x.substr(0, p));
            if (p != string::npos) o.off = strtoll(x.c_str() + p + 1, nullptr, 0);
            if (b[0] == '%')
                o.r = reg(b);
            else
                o.off += symbol(b);
            return o;
        }
        if (s[0] == '!') {
            o = opnd(s.substr(1));
            o.neg = true;
            return o;
        }
        if (s[0] == '%') {
            static const std::map<string, int> S = {
                {"%tid.x", 0},     {"%tid.y", 1},     {"%tid.z", 2},   {"%ntid.x", 3},  {"%ntid.y", 4},
                {"%ntid.z", 5},    {"%ctaid.x", 6},   {"%ctaid.y", 7}, {"%ctaid.z", 8}, {"%nctaid.x", 9},
                {"%nctaid.y", 10}, {"%nctaid.z", 11}, {"%laneid", 12}, {"%warpid", 13}};
            auto it = S.find(s);
            if (it != S.end()) {
                o.k = Opnd::SREG;
                o.v = it->second;
                return o;
            }
            size_t p = s.find('|');
            if (p != string::npos) {
                o.r = reg(s.substr(0, p));
                o.r2 = reg(s.substr(p + 1));
                return o;
            }
            o.r = reg(s);
            return o;
        }
        o.k = Opnd::IMM;
        if (s[0] == '0' && (s[1] == 'f' || s[1] == 'F')) {
            o.v = strtoul(s.c_str() + 2, nullptr, 16);
            return o;
        }
        if (s[0] == '0' && (s[1] == 'd' || s[1] == 'D')) {
            o.v = strtoull(s.c_str() + 2, nullptr, 16);
            return o;
        }
        if (isdigit(s[0]) || s[0] == '-') {
            o.v = s[0] == '-' ? (u64)strtoll(s.c_str(), nullptr, 0) : strtoull(s.c_str(), nullptr, 0);
            return o;
        }
        if (K->reg.count(s)) {
            o.k = Opnd::REG;
            o.r = K->reg[s];
            return o;
        } // {.reg .b16 low;} style names
        o.v = symbol(s);
        return o;
    }
    u64 symbol(const string& s) {
        for (auto& p : K->params)
            if (p.name == s) return p.off;
        if (K->sh.count(s)) return K->sh[s];
        if (K->lo.count(s)) return K->lo[s];
        if (M.extern_shared.count(s)) {
            K->dyn = s;
            return 1u << 30;
        } // patched at run time: dynamic shared base
        if (M.glob.count(s)) return (u64)M.glob[s].data();
        die("unknown symbol " + s);
    }
    static size_t decl(const string& s, string& name, size_t& al) { // ".align 4 .b8 name[128]"
        al = 1;
        size_t p = s.find(".align");
        if (p != string::npos) al = strtoul(s.c_str() + p + 6, nullptr, 10);
        T t = NOT;
        vector<string> w;
        string x;
        for (char c : s + " ") {
            if (isspace(c)) {
                if (!x.empty()) w.push_back(x);
                x.clear();
            } else
                x += c;
        }
        for (auto& q : w)
            if (q[0] == '.' && TY.count(q.substr(1))) t = TY.at(q.substr(1));
        name = w.back();
        size_t n = tsz(t);
        al = std::max<size_t>(al, n);
        size_t b = name.find('[');
        if (b != string::npos) {
            string d = name.substr(b);
            name = name.substr(0, b);
            while (!d.empty() && d[0] == '[') {
                n *= std::max(0l, strtol(d.c_str() + 1, nullptr, 10));
                d = d.substr(d.find(']') + 1);
            }
        }
        return n;
    }
    void stmt(string s) {
        s = trim(s);
        if (s.empty()) return;
        while (true) {
            size_t c = s.find(':');
            if (c != string::npos && (s[0] == '$' || s[0] == '_' || isalpha(s[0])) && s.find_first_of(" \t,[", 0) > c) {
                if (K) labels[s.substr(0, c)] = K->code.size();
                s = trim(s.substr(c + 1));
            } else
                break;
        }
        if (s.empty()) return;
        if (s.rfind(".reg", 0) == 0) {
            vector<string> p = split(s, ',');
            p[0] = p[0].substr(p[0].find_last_of(" \t") + 1);
            for (auto& x : p) {
                string n = trim(x);
                if (n.find('<') == string::npos) reg(n);
            }
            return;
        }
        if (s.rfind(".shared", 0) == 0) {
            string n;
            size_t a, z = decl(s, n, a);
            K->shared = align(K->shared, a);
            K->sh[n] = K->shared;
            K->shared += z;
            return;
        }
        if (s.rfind(".local", 0) == 0) {
            string n;
            size_t a, z = decl(s, n, a);
            K->local = align(K->local, a);
            K->lo[n] = K->local;
            K->local += z;
            return;
        }
        if (s[0] == '.') return; // .pragma, .loc, ...
        Ins I;
        I.text = s;
        if (s[0] == '@') {
            size_t e = s.find_first_of(" \t");
            string p = s.substr(1, e - 1);
            if (p[0] == '!') {
                I.pneg = true;
                p = p.substr(1);
            }
            I.pred = reg(p);
            s = trim(s.substr(e));
        }
        size_t e = s.find_first_of(" \t");
        string full = s.substr(0, e), rest = e == string::npos ? "" : trim(s.substr(e));
        vector<string> m = split(full, '.');
        I.op = m[0];
        m.erase(m.begin());
        I.m = m;
        auto c = CODE.find(I.op);
        if (c == CODE.end()) die("unsupported instruction: " + s);
        I.code = c->second;
        for (auto& x : m) {
            if (x == "v2") I.vec = 2;
            if (x == "v4") I.vec = 4;
            auto it = TY.find(x);
            if (it != TY.end()) {
                if (I.t == NOT)
                    I.t = it->second;
                else if (I.t2 == NOT)
                    I.t2 = it->second;
            }
        }
        if (I.code == cBRA) {
            I.label = rest;
            K->code.push_back(I);
            return;
        }
        for (auto& x : split(rest, ',')) I.o.push_back(opnd(x));
        K->code.push_back(I);
    }
    void run(string src) {
        string t;
        for (size_t i = 0; i < src.size();) {
            if (src.compare(i, 2, "//") == 0) {
                while (i < src.size() && src[i] != '\n') i++;
            } else if (src.compare(i, 2, "/*") == 0) {
                i = src.find("*/", i) + 2;
            } else
                t += src[i++];
        }
        size_t i = 0;
        string cur;
        int depth = 0;
        while (i < t.size()) {
            char ch = t[i];
            if (K == nullptr) {
                if (ch == '{' && cur.find(".entry") != string::npos) { // kernel header complete
                    size_t a = cur.find(".entry") + 6, p = cur.find('(', a);
                    string nm = trim(cur.substr(a, p - a));
                    K = &M.k[nm];
                    K->name = nm;
                    labels.clear();
                    size_t q = cur.find(')', p);
                    for (auto& x : split(cur.substr(p + 1, q - p - 1), ',')) {
                        string n;
                        size_t al, z = decl(x, n, al);
                        K->psize = align(K->psize, al);
                        K->params.push_back({n, K->psize, z});
                        K->psize += z;
                    }
                    cur.clear();
                    depth = 1;
                    i++;
                    continue;
                }
                if (ch == ';') {
                    string s = trim(cur);
                    cur.clear();
                    i++;
                    if (s.find(".extern") != string::npos && s.find(".shared") != string::npos) {
                        string n;
                        size_t a;
                        decl(s, n, a);
                        M.extern_shared.insert(n);
                    } else if (s.find(".shared") != string::npos)
                        die("module-scope shared: " + s);
                    else {
                        size_t g = s.find(".global"), cc = s.find(".const");
                        if (g != string::npos || cc != string::npos) {
                            size_t eq = s.find('=');
                            string n;
                            size_t a, z = decl(trim(s.substr(0, eq)), n, a);
                            vector<unsigned char> v(z + 16);
                            T ty = B8;
                            for (auto& kv : TY)
                                if (s.find("." + kv.first + " ") != string::npos) ty = kv.second;
                            if (eq != string::npos) {
                                string b = s.substr(s.find('{') + 1);
                                b = b.substr(0, b.find('}'));
                                size_t k = 0;
                                for (auto& x : split(b, ',')) {
                                    u64 val = strtoull(x.c_str(), nullptr, 0);
                                    memcpy(&v[k], &val, tsz(ty));
                                    k += tsz(ty);
                                }
                            }
                            M.glob[n] = v;
                        }
                    }
                    continue;
                }
                if (ch == '\n' && (trim(cur).rfind(".version", 0) == 0 || trim(cur).rfind(".target", 0) == 0 ||
                                   trim(cur).rfind(".address_size", 0) == 0))
                    cur.clear();
                cur += ch;
                i++;
                continue;
            }
            bool start = trim(cur).empty();
            if (ch == '{' && !start && trim(cur).back() == ':') {
                stmt(cur);
                cur.clear();
                start = true;
            } // a label before a block
            if (ch == '{' && start) {
                depth++;
                i++;
                cur.clear();
                continue;
            }
            if (ch == '}' && start) {
                depth--;
                i++;
                cur.clear();
                if (!depth) {
                    for (auto& I : K->code)
                        if (I.code == cBRA) {
                            if (!labels.count(I.label)) die("label " + I.label);
                            I.target = labels[I.label];
                        }
                    K = nullptr;
                }
                continue;
            }
            if (ch == ';') {
                stmt(cur);
                cur.clear();
                i++;
                continue;
            }
            cur += ch;
            i++;
        }
    }
};
