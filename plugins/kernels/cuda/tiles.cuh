// The tiles that a block computes: the staircase of plugins/kernels/staircase.py, tile after tile.
#pragma once

namespace acm {

constexpr int kBlockM = 128;
constexpr int kBlockK = 64;

__device__ __forceinline__ int ceil_div(int a, int b) { return (a + b - 1) / b; }

// The tiles of GEMM 1 that some token needs: row tile after row tile, and in each, learner after learner. So x is read
// from memory once, and W1, which is smaller, stays in the cache.
struct UpTiles {
  const int* reach;
  int first_row, num_rows, columns;
  int learner = 0, row_tile = 0, column_tile = 0;
  int rows = 0;  // rows of the chunk that run the learner

  __device__ UpTiles(const int* reach, int first_row, int num_rows, int num_learners, int columns)
      : reach(reach), first_row(first_row), num_rows(num_rows), columns(columns), learners_(num_learners),
        end_(row_tiles(num_learners)) {}

  // Moves to the tile of this index, which must not be smaller than the last one; false if there is none.
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
  int learners_;       // the row tiles begin_ to end_, which contain the index, run this many
  int begin_ = 0, end_;
  int before_ = 0;     // number of tiles before them

  // Rows of the chunk that run n learners or more.
  __device__ __forceinline__ int rows_of(int n) const { return min(max(reach[n] - first_row, 0), num_rows); }
  __device__ __forceinline__ int row_tiles(int n) const { return ceil_div(rows_of(n), kBlockM); }
};

// Learners that the token at a sorted row runs: the number of n >= 1 with reach[n] > row. reach never grows with n.
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
  int row, column;   // first row and column, in the chunk
  int most, fewest;  // learners of the first and of the last row

  __device__ DownTile(int index, int columns, int block_n, const int* reach, int first_row, int num_rows,
                      int num_learners)
      : row(index / columns * kBlockM), column(index % columns * block_n),
        most(learners_of_row(reach, first_row + row, num_learners)),
        fewest(learners_of_row(reach, first_row + min(row + kBlockM, num_rows) - 1, num_learners)) {}
};

}  // namespace acm
