/* The part of cuDNN's backend descriptors that its frontend uses: one engine for each convolution. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
int stub_note(const char *);
typedef struct Attribute { int name; int64_t count; char *data; struct Attribute *next; } Attribute;
typedef struct { int type; Attribute *first; } Descriptor;
static size_t size_of(int type) { switch (type) { case 0: case 3: case 5: case 6: case 15: return 8; case 2: case 24: return 1; case 26: return 16; default: return 4; } }
size_t cudnnGetVersion(void) { return 92400; }
const char *cudnnGetErrorString(int e) { return "error of the stub"; }
void cudnnGetLastErrorString(char *m, size_t n) { if (n) *m = 0; }
int cudnnBackendCreateDescriptor(int type, void **d) { Descriptor *x = calloc(1, sizeof *x); x->type = type; *d = x; return 0; }
int cudnnBackendDestroyDescriptor(void *d) { return 0; }
enum { EXECUTION_PLAN = 5 };
int cudnnBackendFinalize(Descriptor *d) { return d->type == EXECUTION_PLAN ? stub_note("cudnnBackendFinalize of a plan") : 0; }
int cudnnBackendSetAttribute(Descriptor *d, int name, int type, int64_t count, const void *data) {
    Attribute *a = calloc(1, sizeof *a);
    a->name = name; a->count = count; a->data = malloc(count * size_of(type) + 1); memcpy(a->data, data, count * size_of(type));
    a->next = d->first; d->first = a; return 0;
}
int cudnnBackendGetAttribute(Descriptor *d, int name, int type, int64_t wanted, int64_t *count, void *data) {
    int64_t one = 1, *n = count ? count : &one;
    if (name == 202) { *n = 1; return 0; }                                             /* results of the heuristic */
    if (name == 402 || name == 303) { *n = 1; if (data) *(int64_t *)data = 1 << 20; return 0; } /* workspace */
    for (Attribute *a = d->first; a; a = a->next)
        if (a->name == name) { *n = a->count; if (data) memcpy(data, a->data, (wanted < a->count ? wanted : a->count) * size_of(type)); return 0; }
    if (name == 1302 || name == 1303 || name == 1305) { *n = 0; return 0; }           /* knobs and notes: none */
    *n = wanted ? 1 : 0;
    if (data && wanted && type != 15) memset(data, 0, size_of(type));
    return 0;
}
int cudnnBackendExecute(void *h, void *plan, void *pack) { return stub_note("cudnnBackendExecute"); }
