/* A CUDA runtime that computes nothing: device memory is host memory, kernels are counted and not run.

   ONNX Runtime's CUDA provider is real above it: placement, capture, copies, handles. A host-to-device copy under
   capture becomes a graph node that reads host memory again at each replay; the stub counts replays that read other
   bytes than were captured, and calls that CUDA refuses while a stream is captured.

   Environment: STUB_PINS_NOTHING=1 fails cudaHostRegister, STUB_FAILS=NAME fails every call of that function,
   STUB_DRIVER=12080 is the driver's CUDA version, STUB_DEVICES=2 the number of GPUs. stub_break() makes every later call fail, as a lost device does. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HOST_TO_DEVICE = 1, OUT_OF_MEMORY = 2, ILLEGAL_ADDRESS = 700, NOT_SUPPORTED = 801 };
typedef struct { void *to; const void *from; size_t size; void *then; } Copy;
typedef struct { Copy copies[4096]; int count; } Graph;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct { char name[160]; long count; } counters[1024];
static int counter_count;
static void *capturing;
static Graph *recording;
static size_t live;
static __thread int last_error;
static int broken;

static void add(const char *name, long by) {
    pthread_mutex_lock(&lock);
    int i = 0;
    while (i < counter_count && strncmp(counters[i].name, name, 159)) i++;
    if (i == counter_count && i < 1024) strncpy(counters[counter_count++].name, name, 159);
    if (i < 1024) counters[i].count += by;
    pthread_mutex_unlock(&lock);
}
/* Count a call and return its error code. */
int stub_note(const char *name) {
    const char *fails = getenv("STUB_FAILS");
    add(name, 1);
    if (broken) return last_error = ILLEGAL_ADDRESS;
    return fails && !strcmp(name, fails) ? (last_error = OUT_OF_MEMORY) : 0;
}
static int forbidden(const char *name) {
    if (capturing) add("refused under capture", 1);
    return stub_note(name);
}
long stub_read(int i, char *name) {
    if (i >= counter_count) return -1;
    strcpy(name, counters[i].name);
    return counters[i].count;
}
void stub_reset(void) {
    pthread_mutex_lock(&lock);
    memset(counters, 0, sizeof counters);
    counter_count = 0;
    pthread_mutex_unlock(&lock);
}
size_t stub_live(void) { return live; }
void stub_break(void) { broken = 1; }

/* What nvcc's start-up code calls. */
static struct { const void *host; const char *name; } kernels[400000];
static int kernel_count;
void **__cudaRegisterFatBinary(void *image) { static void *handle; return &handle; }
void __cudaRegisterFatBinaryEnd(void **h) {}
void __cudaUnregisterFatBinary(void **h) {}
void __cudaRegisterFunction(void **h, const char *host, char *f, const char *name, int t, void *a, void *b, void *c, void *d, int *e) {
    if (kernel_count < 400000) { kernels[kernel_count].host = host; kernels[kernel_count++].name = name; }
}
void __cudaRegisterVar(void **h, char *a, char *b, const char *c, int d, size_t e, int f, int g) {}
typedef struct { unsigned x, y, z; } Dim;
static __thread struct { Dim grid, block; size_t shared; void *stream; } pushed;
unsigned __cudaPushCallConfiguration(Dim grid, Dim block, size_t shared, void *stream) {
    pushed.grid = grid; pushed.block = block; pushed.shared = shared; pushed.stream = stream; return 0;
}
int __cudaPopCallConfiguration(Dim *grid, Dim *block, size_t *shared, void *stream) {
    *grid = pushed.grid; *block = pushed.block; *shared = pushed.shared; *(void **)stream = pushed.stream; return 0;
}
int __cudaGetKernel(void **kernel, const void *host) { *kernel = (void *)host; return 0; }
static int launch(const void *host) {
    char name[160] = "kernel ?";
    for (int i = 0; i < kernel_count; i++)
        if (kernels[i].host == host) { snprintf(name, sizeof name, "kernel %s", kernels[i].name); break; }
    add("launches", 1);
    return stub_note(name);
}
int __cudaLaunchKernel(void *k, Dim g, Dim b, void **a, size_t s, void *st) { return launch(k); }
int cudaLaunchKernel(const void *f, Dim g, Dim b, void **a, size_t s, void *st) { return launch(f); }
int cudaLaunchCooperativeKernel(const void *f, Dim g, Dim b, void **a, size_t s, void *st) { return launch(f); }
int cudaLaunchKernelExC(const void *config, const void *f, void **a) { return launch(f); }
int cudaLaunchHostFunc(void *stream, void (*f)(void *), void *data) { f(data); return 0; }

/* The device: fields of cudaDeviceProp at the offsets of CUDA 13. */
typedef struct {
    char name[256], uuid[16], luid[8]; unsigned mask; size_t memory, shared; int registers, warp; size_t pitch;
    int threads, block[3], grid[3]; size_t constants; int major, minor; size_t align, pitch_align; int processors;
} Properties;
int cudaGetDeviceProperties(Properties *p, int device) {
    memset(p, 0, 1008);
    strcpy(p->name, "no device: a stub"); p->memory = 80ull << 30; p->shared = 49152; p->registers = 65536; p->warp = 32;
    p->threads = 1024; p->block[0] = p->block[1] = 1024; p->block[2] = 64; p->grid[0] = 2147483647;
    p->grid[1] = p->grid[2] = 65535; p->constants = 65536; p->major = 9; p->minor = 0; p->processors = 132; return 0;
}
typedef struct { /* of CUDA 12 */
    char name[256], uuid[16], luid[8]; unsigned mask; size_t memory, shared; int registers, warp; size_t pitch;
    int threads, block[3], grid[3], clock; size_t constants; int major, minor; size_t align, pitch_align; int overlap, processors;
} Properties12;
int cudaGetDeviceProperties_v2(Properties12 *p, int device) {
    union { Properties of; char bytes[1008]; } new;
    cudaGetDeviceProperties(&new.of, device);
    memset(p, 0, 1008);
    memcpy(p, &new, (char *)&new.of.constants - new.bytes);
    p->constants = new.of.constants; p->major = new.of.major; p->minor = new.of.minor; p->processors = new.of.processors; return 0;
}
static __thread int current;
int cudaGetDeviceCount(int *n) { const char *set = getenv("STUB_DEVICES"); *n = set ? atoi(set) : 1; return 0; }
int cudaGetDevice(int *n) { *n = current; return 0; }
int cudaSetDevice(int n) { current = n; return stub_note("cudaSetDevice"); }
int cudaDeviceGetAttribute(int *v, int attribute, int device) {
    switch (attribute) { case 1: *v = 1024; break; case 10: *v = 32; break; case 16: *v = 132; break; case 39: *v = 2048; break;
        case 75: *v = 9; break; case 76: *v = 0; break; case 8: *v = 49152; break; case 97: *v = 232448; break; default: *v = 1; }
    return 0;
}
int cudaDriverGetVersion(int *v) { const char *driver = getenv("STUB_DRIVER"); *v = driver ? atoi(driver) : 13000; return 0; }
int cudaRuntimeGetVersion(int *v) { *v = 13000; return 0; }
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *f, int b, size_t s, unsigned g) { *n = 2; return 0; }
int cudaGetLastError(void) { int e = last_error; last_error = broken ? ILLEGAL_ADDRESS : 0; return e; }
int cudaPeekAtLastError(void) { return last_error; }
const char *cudaGetErrorName(int e) { return "error of the stub"; }
const char *cudaGetErrorString(int e) { return "error of the stub"; }
int cudaDeviceSynchronize(void) { return forbidden("cudaDeviceSynchronize"); }

/* Memory: a header before each block holds its size. */
static int allocator_call(const char *name) { return strstr(name, "Async") ? stub_note(name) : forbidden(name); }
static int take(const char *name, void **p, size_t n) {
    int error = allocator_call(name);
    char *block = NULL;
    if (current) add("allocations on another GPU than the first", 1);
    if (error || posix_memalign((void **)&block, 256, n + 256)) return error ? error : OUT_OF_MEMORY;
    *(size_t *)block = n;
    memset(block + 256, 0, n);
    __sync_fetch_and_add(&live, n);
    *p = block + 256;
    return 0;
}
static int drop(const char *name, char *p) {
    int error = allocator_call(name);
    if (p) {
        __sync_fetch_and_sub(&live, *(size_t *)(p - 256));
        free(p - 256);
    }
    return error;
}
static int take_host(const char *name, void **p, size_t n) { *p = calloc(1, n + 256); return forbidden(name); }
int cudaMalloc(void **p, size_t n) { return take("cudaMalloc", p, n); }
int cudaFree(void *p) { return drop("cudaFree", p); }
int cudaMallocFromPoolAsync(void **p, size_t n, void *pool, void *s) { return take("cudaMallocFromPoolAsync", p, n); }
int cudaFreeAsync(void *p, void *s) { return drop("cudaFreeAsync", p); }
int cudaMallocHost(void **p, size_t n) { return take_host("cudaMallocHost", p, n); }
int cudaHostAlloc(void **p, size_t n, unsigned f) { return take_host("cudaHostAlloc", p, n); }
int cudaFreeHost(void *p) { free(p); return forbidden("cudaFreeHost"); }
int cudaHostRegister(void *p, size_t n, unsigned f) {
    int error = forbidden("cudaHostRegister");
    return getenv("STUB_PINS_NOTHING") ? (last_error = NOT_SUPPORTED) : error;
}
int cudaHostUnregister(void *p) { return forbidden("cudaHostUnregister"); }
int cudaMemGetInfo(size_t *unused, size_t *total) { *total = 80ull << 30; *unused = *total - live; return 0; }
int cudaMemset(void *p, int v, size_t n) { memset(p, v, n); return forbidden("cudaMemset"); }
int cudaMemsetAsync(void *p, int v, size_t n, void *s) { memset(p, v, n); return stub_note("cudaMemsetAsync"); }
int cudaMemcpy(void *to, const void *from, size_t n, int kind) { memcpy(to, from, n); return forbidden("cudaMemcpy"); }
int cudaMemcpyAsync(void *to, const void *from, size_t n, int kind, void *stream) {
    if (capturing && capturing == stream && kind == HOST_TO_DEVICE && recording->count < 4096) {
        Copy *c = &recording->copies[recording->count++];
        c->to = to; c->from = from; c->size = n; c->then = malloc(n); memcpy(c->then, from, n);
    }
    memcpy(to, from, n);
    return stub_note("cudaMemcpyAsync");
}
int cudaMemcpy2DAsync(void *to, size_t tp, const void *from, size_t fp, size_t w, size_t h, int kind, void *s) {
    for (size_t i = 0; i < h; i++) memcpy((char *)to + i * tp, (const char *)from + i * fp, w);
    return stub_note("cudaMemcpy2DAsync");
}
int cudaMemcpyFromSymbol(void *to, const void *symbol, size_t n, size_t o, int kind) { memset(to, 0, n); return 0; }
int cudaPointerGetAttributes(void *a, const void *p) { memset(a, 0, 32); return 0; }

/* Streams, events and graphs. */
static int handle(void **h) { *h = calloc(1, 64); return 0; }
int cudaStreamCreate(void **s) { return handle(s); }
int cudaStreamCreateWithFlags(void **s, unsigned f) { return handle(s); }
int cudaStreamDestroy(void *s) { free(s); return 0; }
int cudaStreamSynchronize(void *s) {
    if (capturing && capturing == s) add("refused under capture", 1);
    return stub_note("cudaStreamSynchronize");
}
int cudaStreamIsCapturing(void *s, int *status) { *status = capturing && capturing == s; return 0; }
int cudaStreamBeginCapture(void *s, int mode) {
    int error = stub_note("cudaStreamBeginCapture");
    if (error) return error;
    capturing = s; recording = calloc(1, sizeof(Graph)); return 0;
}
int cudaStreamEndCapture(void *s, void **g) { capturing = NULL; *g = recording; return 0; }
int cudaGraphInstantiate(void **e, void *g, unsigned long long f) { *e = g; return 0; }
int cudaGraphLaunch(Graph *g, void *s) {
    int changed = 0, error = stub_note("cudaGraphLaunch");
    if (error) return error;
    for (int i = 0; i < g->count; i++) {
        changed |= memcmp(g->copies[i].from, g->copies[i].then, g->copies[i].size) != 0;
        memcpy(g->copies[i].to, g->copies[i].from, g->copies[i].size);
    }
    if (changed) add("replays that read other host memory than was captured", 1);
    return 0;
}
int cudaEventCreate(void **e) { return handle(e); }
int cudaEventCreateWithFlags(void **e, unsigned f) { return handle(e); }
int cudaEventDestroy(void *e) { free(e); return 0; }
int cudaEventElapsedTime(float *v, void *a, void *b) { *v = 1; return 0; }
int cudaMemPoolCreate(void **p, const void *q) { return handle(p); }
int cudaMemPoolGetAttribute(void *p, int a, void *v) { *(uint64_t *)v = 0; return 0; }
int cudaLibraryLoadData(void **l, const void *c, void *a, void *b, unsigned d, void *e, void *f, unsigned g) { return handle(l); }
int cudaLibraryGetKernel(void **k, void *l, const char *n) { return handle(k); }
int cudaGetDriverEntryPointByVersion(const char *n, void **f, unsigned v, unsigned long long g, int *r) { *f = NULL; if (r) *r = 1; return 0; }
int cudaFuncGetAttributes(void *a, const void *f) { memset(a, 0, 64); return 0; }
