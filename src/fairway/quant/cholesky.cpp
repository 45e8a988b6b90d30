#include "fairway/quant/cholesky.h"

#include <algorithm>
#include <cmath>

namespace fairway {

// With J the reversal of rows, J H J = L Lᵀ gives H = R Rᵀ for the upper triangular R = J L J,
// hence H⁻¹ = R⁻ᵀR⁻¹ and U = R⁻¹ = J L⁻¹ J: one factorisation and one triangular inverse, H⁻¹
// itself is never formed.

namespace {

constexpr int64_t kPanel = 64;

// out[j] -= Σ_l a[l] b[j][l] for the four rows b, b + ld, …
void subtract_dots4(const double* a, const double* b, int64_t ld, int64_t n, double* out) {
  double s0 = 0, s1 = 0, s2 = 0, s3 = 0;
  const double *b1 = b + ld, *b2 = b + 2 * ld, *b3 = b + 3 * ld;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
  for (int64_t l = 0; l < n; ++l) {
    s0 += a[l] * b[l];
    s1 += a[l] * b1[l];
    s2 += a[l] * b2[l];
    s3 += a[l] * b3[l];
  }
  out[0] -= s0, out[1] -= s1, out[2] -= s2, out[3] -= s3;
}

double dot(const double* a, const double* b, int64_t n) {
  double s = 0;
#pragma omp simd reduction(+ : s)
  for (int64_t l = 0; l < n; ++l) s += a[l] * b[l];
  return s;
}

// a [n, n] → its lower Cholesky factor, in the lower triangle.
bool cholesky_lower(CpuDevice& device, int64_t n, double* a) {
  for (int64_t k0 = 0; k0 < n; k0 += kPanel) {
    const int64_t k1 = std::min(k0 + kPanel, n);
    // Columns [k0, k1) less the part that the finished columns explain.
    const auto reduce = [&](int64_t i) {
      double* row = a + i * n;
      const int64_t end = std::min(k1, i + 1);
      int64_t j = k0;
      for (; j + 4 <= end; j += 4) subtract_dots4(row, a + j * n, n, k0, row + j);
      for (; j < end; ++j) row[j] -= dot(row, a + j * n, k0);
    };
#pragma omp parallel for num_threads(device.threads()) schedule(dynamic, 16)
    for (int64_t i = k0; i < n; ++i) reduce(i);
    for (int64_t i = k0; i < k1; ++i) {
      double* row = a + i * n;
      for (int64_t j = k0; j < i; ++j)
        row[j] = (row[j] - dot(row + k0, a + j * n + k0, j - k0)) / a[j * n + j];
      const double pivot = row[i] - dot(row + k0, row + k0, i - k0);
      if (!(pivot > 0) || !std::isfinite(pivot)) return false;
      row[i] = std::sqrt(pivot);
    }
#pragma omp parallel for num_threads(device.threads()) schedule(dynamic, 16)
    for (int64_t i = k1; i < n; ++i) {
      double* row = a + i * n;
      for (int64_t j = k0; j < k1; ++j)
        row[j] = (row[j] - dot(row + k0, a + j * n + k0, j - k0)) / a[j * n + j];
    }
  }
  return true;
}

}  // namespace

bool inverse_cholesky_upper(CpuDevice& device, int64_t n, std::vector<double>& h,
                            std::vector<double>& u) {
  // Both triangles are filled, so reversing rows and columns is reversing the buffer.
  std::reverse(h.begin(), h.end());
  if (!cholesky_lower(device, n, h.data())) return false;

  u.assign(static_cast<size_t>(n * n), 0.0);
  // X = L⁻¹ by forward substitution, columns [c0, c1) at a time; X[i, c] lands reversed in u.
  const int64_t panels = (n + kPanel - 1) / kPanel;
#pragma omp parallel for num_threads(device.threads()) schedule(dynamic, 1)
  for (int64_t panel = 0; panel < panels; ++panel) {
    const int64_t c0 = panel * kPanel, c1 = std::min(c0 + kPanel, n);
    std::vector<double> x(static_cast<size_t>((n - c0) * kPanel), 0.0);  // rows from c0 on
    for (int64_t i = c0; i < n; ++i) {
      double sum[kPanel] = {};
      const double* l = h.data() + i * n + c0;
      for (int64_t k = 0; k < i - c0; ++k) {
        const double* above = x.data() + k * kPanel;
        const double factor = l[k];
        for (int64_t c = 0; c < kPanel; ++c) sum[c] += factor * above[c];
      }
      double* row = x.data() + (i - c0) * kPanel;
      const double pivot = l[i - c0];
      for (int64_t c = 0; c < c1 - c0; ++c) row[c] = ((i == c0 + c ? 1.0 : 0.0) - sum[c]) / pivot;
      double* out = u.data() + (n - 1 - i) * n + (n - 1 - c0);
      for (int64_t c = 0; c < std::min(c1, i + 1) - c0; ++c) out[-c] = row[c];
    }
  }
  return true;
}

}  // namespace fairway
