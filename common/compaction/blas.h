#pragma once

// BLAS as libtorch_cpu brings it (its Fortran interface: column-major, arguments by address).
extern "C" {
void sgemm_(const char* transa, const char* transb, const int* m, const int* n, const int* k,
            const float* alpha, const float* a, const int* lda, const float* b, const int* ldb,
            const float* beta, float* c, const int* ldc);
void dgemm_(const char* transa, const char* transb, const int* m, const int* n, const int* k,
            const double* alpha, const double* a, const int* lda, const double* b, const int* ldb,
            const double* beta, double* c, const int* ldc);
}

namespace palimpsest::compaction {

// Products of row-major matrices, each with rows of as many numbers as it has columns; out is
// overwritten. Inside a parallel region they use their own thread alone.

inline void Gemm(char transa, char transb, int m, int n, int k, float alpha, const float* a,
                 int lda, const float* b, int ldb, float* out, int ldc) {
  const float beta = 0;
  sgemm_(&transa, &transb, &m, &n, &k, &alpha, a, &lda, b, &ldb, &beta, out, &ldc);
}
inline void Gemm(char transa, char transb, int m, int n, int k, double alpha, const double* a,
                 int lda, const double* b, int ldb, double* out, int ldc) {
  const double beta = 0;
  dgemm_(&transa, &transb, &m, &n, &k, &alpha, a, &lda, b, &ldb, &beta, out, &ldc);
}

// out [m, n] = scale * left [m, k] right [k, n].
template <class Real>
void Multiply(int m, int n, int k, const Real* left, const Real* right, Real* out, Real scale = 1) {
  Gemm('N', 'N', n, m, k, scale, right, n, left, k, out, n);
}
// out [m, n] = scale * left [m, k] right [n, k]'.
template <class Real>
void MultiplyRows(int m, int n, int k, const Real* left, const Real* right, Real* out,
                  Real scale = 1) {
  Gemm('T', 'N', n, m, k, scale, right, k, left, k, out, n);
}
// out [m, n] = scale * left [k, m]' right [k, n].
template <class Real>
void MultiplyColumns(int m, int n, int k, const Real* left, const Real* right, Real* out,
                     Real scale = 1) {
  Gemm('N', 'T', n, m, k, scale, right, n, left, m, out, n);
}

}  // namespace palimpsest::compaction
