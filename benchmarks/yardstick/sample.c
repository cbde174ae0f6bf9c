/* Yardstick: names drawn one after another from the trained names model by a plain C program, float32, one thread.
 *
 * What depends on (token, position) alone (embedding, norms, query, key, value) is a table. Keys are held
 * [channel][position], so that scores are computed for all positions at once; weights are held [in][out].
 *
 *   gcc -O3 -march=native -ffast-math -o sample sample.c -lm && taskset -c 0 ./sample weights.f32 200000
 *
 * weights.f32: wte wpe lm_head wq wk wv wo fc1 fc2 as float32, row by row, (out, in). It prints the best of 5 runs
 * in tokens per second (the end of a name is a token), letters per name, and the loss of the name "emma".
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { VOCAB = 27, COLS = 32, D = 16, HEADS = 4, HD = D / HEADS, F = 4 * D, BLOCK = 16, BOS = VOCAB - 1 };
typedef float f;

static f wte[VOCAB][D], wpe[BLOCK][D], head[D][COLS], wq[D][D], wk[D][D], wv[D][D], wo[D][D], fc1[D][F], fc2[F][D];
static f lut_x[VOCAB][BLOCK][D], lut_q[VOCAB][BLOCK][D], lut_k[VOCAB][BLOCK][D], lut_v[VOCAB][BLOCK][D];
static f keys[D][BLOCK], values[BLOCK][D];

#define MATVEC(NAME, I, O)                                                     \
  static inline void NAME(const f *restrict x, f W[I][O], f *restrict y) {     \
    f c[O];                                                                    \
    for (int o = 0; o < O; o++) c[o] = 0;                                      \
    for (int i = 0; i < I; i++)                                                \
      for (int o = 0; o < O; o++) c[o] += x[i] * W[i][o];                      \
    for (int o = 0; o < O; o++) y[o] = c[o];                                   \
  }
MATVEC(square, D, D)
MATVEC(widen, D, F)
MATVEC(narrow, F, D)
MATVEC(project, D, COLS)

static inline void rmsnorm(const f *x, f *y) {
  f s = 0;
  for (int d = 0; d < D; d++) s += x[d] * x[d];
  s = 1 / sqrtf(s / D + 1e-5f);
  for (int d = 0; d < D; d++) y[d] = x[d] * s;
}

static void tabulate(void) {
  for (int v = 0; v < VOCAB; v++)
    for (int t = 0; t < BLOCK; t++) {
      f x[D], n[D];
      for (int d = 0; d < D; d++) x[d] = wte[v][d] + wpe[t][d];
      rmsnorm(x, lut_x[v][t]), rmsnorm(lut_x[v][t], n);
      square(n, wq, lut_q[v][t]), square(n, wk, lut_k[v][t]), square(n, wv, lut_v[v][t]);
      for (int d = 0; d < D; d++) lut_q[v][t][d] /= sqrtf(HD);
    }
}

static void forward(int token, int t, f *logits) {
  f x[D], mix[D] = {0}, p[HEADS][BLOCK], n[D], hid[F], out[D];
  const f *q = lut_q[token][t];
  for (int d = 0; d < D; d++) keys[d][t] = lut_k[token][t][d], values[t][d] = lut_v[token][t][d];
  for (int h = 0; h < HEADS; h++) {
    f sum = 0;
    for (int s = 0; s < BLOCK; s++) {
      f a = 0;
      for (int j = 0; j < HD; j++) a += q[h * HD + j] * keys[h * HD + j][s];
      p[h][s] = s <= t ? a : -1e30f;
    }
    f top = p[h][0];
    for (int s = 1; s < BLOCK; s++) top = p[h][s] > top ? p[h][s] : top;
    for (int s = 0; s < BLOCK; s++) sum += p[h][s] = expf(p[h][s] - top);
    for (int s = 0; s < BLOCK; s++) p[h][s] /= sum;
  }
  for (int s = 0; s <= t; s++)
    for (int h = 0; h < HEADS; h++)
      for (int j = 0; j < HD; j++) mix[h * HD + j] += p[h][s] * values[s][h * HD + j];
  square(mix, wo, out);
  for (int d = 0; d < D; d++) x[d] = lut_x[token][t][d] + out[d];
  rmsnorm(x, n);
  widen(n, fc1, hid);
  for (int d = 0; d < F; d++) hid[d] = hid[d] > 0 ? hid[d] : 0;
  narrow(hid, fc2, out);
  for (int d = 0; d < D; d++) x[d] += out[d];
  project(x, head, logits);
}

static uint64_t state = 88172645463325252u;
static inline f uniform(void) {
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return (state >> 40) * 0x1p-24f;
}

static int draw(f *logits, f temperature) {
  f top = logits[0], sum = 0, e[COLS];
  for (int c = 0; c < VOCAB; c++) top = logits[c] > top ? logits[c] : top;
  for (int c = 0; c < COLS; c++) sum += e[c] = c < VOCAB ? expf((logits[c] - top) / temperature) : 0;
  f u = uniform() * sum;
  int c = 0;
  while (c < VOCAB - 1 && (u -= e[c]) >= 0) c++;
  return c;
}

static void get(FILE *file, f *into, int rows, int columns, int width, int turned) {
  for (int r = 0; r < rows; r++)
    for (int c = 0; c < columns; c++)
      if (fread(turned ? into + c * width + r : into + r * width + c, sizeof(f), 1, file) != 1) exit(2);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

int main(int argc, char **argv) {
  FILE *file = argc > 1 ? fopen(argv[1], "rb") : NULL;
  if (!file) return fprintf(stderr, "usage: sample WEIGHTS [NAMES]\n"), 2;
  get(file, wte[0], VOCAB, D, D, 0), get(file, wpe[0], BLOCK, D, D, 0), get(file, head[0], VOCAB, D, COLS, 1);
  get(file, wq[0], D, D, D, 1), get(file, wk[0], D, D, D, 1), get(file, wv[0], D, D, D, 1), get(file, wo[0], D, D, D, 1);
  get(file, fc1[0], F, D, F, 1), get(file, fc2[0], D, F, D, 1);
  fclose(file);
  tabulate();

  f logits[COLS];
  const int emma[] = {BOS, 4, 12, 12, 0, BOS};
  double loss = 0;
  for (int t = 0; t < 5; t++) {
    double sum = 0;
    forward(emma[t], t, logits);
    for (int c = 0; c < VOCAB; c++) sum += exp(logits[c]);
    loss -= logits[emma[t + 1]] - log(sum);
  }

  long names = argc > 2 ? atol(argv[2]) : 100000, tokens = 0;
  double best = 0;
  for (int run = 0; run < 5; run++) {
    tokens = 0;
    double start = now();
    for (long i = 0; i < names; i++)
      for (int t = 0, token = BOS; t < BLOCK; t++) {
        forward(token, t, logits);
        token = draw(logits, 0.5f);
        tokens++;
        if (token == BOS) break;
      }
    double speed = tokens / (now() - start);
    if (speed > best) best = speed;
  }
  printf("tokens_per_s %.0f  tokens_per_name %.4f  emma %.6f\n", best, (double)tokens / names, loss / 5);
}
