// Which tiles a block computes: the staircase of plugins/kernels/staircase.py, walked tile after tile.
#pragma once

namespace acm {

constexpr int kBlockM = 128;
constexpr int kBlockK = 64;

__device__ __forceinline__ int ceil_div(int a, int b) { return (a + b - 1) / b; }

// The tiles of GEMM 1 that some token needs: learner after learner, in each row after row.
struct UpTiles {
  const int* reach;
  int first_row, num_rows, num_learners, columns;
  int learner = 0, row_tile = 0, column_tile = 0, rows = 0;

  __device__ UpTiles(const int* reach, int first_row, int num_rows, int num_learners, int columns)
      : reach(reach), first_row(first_row), num_rows(num_rows), num_learners(num_learners), columns(columns) {
    rows = rows_of(0);
  }

  // Goes to the tile of this index, which must not be below the last one; false where there is none.
  __device__ __forceinline__ bool advance(int index) {
    while (index >= before_ + ceil_div(rows, kBlockM) * columns) {
      before_ += ceil_div(rows, kBlockM) * columns;
      if (++learner >= num_learners) return false;
      rows = rows_of(learner);
      if (rows == 0) return false;  // and no token runs a later learner
    }
    row_tile = (index - before_) / columns;
    column_tile = (index - before_) % columns;
    return true;
  }

 private:
  int before_ = 0;  // tiles of the learners before this one

  __device__ __forceinline__ int rows_of(int n) const { return min(max(reach[n + 1] - first_row, 0), num_rows); }
};

// Learners that the token at a sorted row runs: how many n >= 1 have reach[n] > row. reach never grows with n.
__device__ __forceinline__ int learners_of_row(const int* reach, int row, int num_learners) {
  int low = 0, high = num_learners;
  while (low < high) {
    const int middle = (low + high + 1) >> 1;
    if (reach[middle] > row) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

// A tile of GEMM 2; there is none of this index where `row` is not below num_rows.
struct DownTile {
  int row, column;   // its first; of the chunk
  int most = 0, fewest = 0;  // learners of its first and its last row

  __device__ DownTile(int index, int columns, const int* reach, int first_row, int num_rows, int num_learners,
                      int block_n)
      : row(index / columns * kBlockM), column(index % columns * block_n) {
    if (row >= num_rows) return;
    most = learners_of_row(reach, first_row + row, num_learners);
    fewest = learners_of_row(reach, first_row + min(row + kBlockM, num_rows) - 1, num_learners);
  }
};

// Index of the round-th tile of this block. Tiles are sorted by their work, so every other round goes backwards: the
// blocks that get more in one round get less in the next.
__device__ __forceinline__ int balanced_index(int round) {
  const int blocks = gridDim.x, block = blockIdx.x;
  return round * blocks + (round % 2 ? blocks - 1 - block : block);
}

}  // namespace acm
