// Which tiles a block computes: the staircase of plugins/kernels/staircase.py, walked tile after tile.
#pragma once

namespace acm {

constexpr int kBlockM = 128;
constexpr int kBlockK = 64;

__device__ __forceinline__ int ceil_div(int a, int b) { return (a + b - 1) / b; }

// The tiles of GEMM 1 that some token needs: row tile after row tile, in each learner after learner. So x is read from
// memory once, and W1, which is smaller, stays in the cache.
struct UpTiles {
  const int* reach;
  int first_row, num_rows, columns;
  int learner = 0, row_tile = 0, column_tile = 0;
  int rows = 0;  // of the chunk, that run the learner

  __device__ UpTiles(const int* reach, int first_row, int num_rows, int num_learners, int columns)
      : reach(reach), first_row(first_row), num_rows(num_rows), columns(columns), learners_(num_learners),
        end_(row_tiles(num_learners)) {}

  // Goes to the tile of this index, which must not be below the last one; false where there is none.
  __device__ __forceinline__ bool advance(int index) {
    while (index >= before_ + (end_ - begin_) * learners_ * columns) {
      before_ += (end_ - begin_) * learners_ * columns;
      if (--learners_ == 0) return false;
      begin_ = end_;
      end_ = row_tiles(learners_);
    }
    const int of_row = learners_ * columns, place = index - before_;
    row_tile = begin_ + place / of_row;
    learner = place % of_row / columns;
    column_tile = place % columns;
    rows = rows_of(learner + 1);
    return true;
  }

 private:
  int learners_;       // whose row tiles, begin_ to end_, the index lies in: they run that many
  int begin_ = 0, end_;
  int before_ = 0;     // tiles of the row tiles before these

  // Of the chunk, that run n learners or more.
  __device__ __forceinline__ int rows_of(int n) const { return min(max(reach[n] - first_row, 0), num_rows); }
  __device__ __forceinline__ int row_tiles(int n) const { return ceil_div(rows_of(n), kBlockM); }
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

// A tile of GEMM 2. Those with many learners have the lowest indices.
struct DownTile {
  int row, column;   // its first; of the chunk
  int most, fewest;  // learners of its first and its last row

  __device__ DownTile(int index, int columns, int block_n, const int* reach, int first_row, int num_rows,
                      int num_learners)
      : row(index / columns * kBlockM), column(index % columns * block_n),
        most(learners_of_row(reach, first_row + row, num_learners)),
        fewest(learners_of_row(reach, first_row + min(row + kBlockM, num_rows) - 1, num_learners)) {}
};

}  // namespace acm
