// The seam of column_quantile; see launch.h.
#pragma once

#include "core/column_quantile.h"
#include "cuda/launch.h"

namespace fusion3d::cuda {

// `heights` through `permutation`, unless that is null; columns of any length; `longest` as check_csr returns it.
Status column_quantile(
    FloatType type, const void* heights, const int64_t* permutation, const Columns& csr, int64_t longest,
    const Quantiles& quantiles, void* result, void* stream);

}  // namespace fusion3d::cuda
