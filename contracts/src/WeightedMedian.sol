// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title The median of values that weigh differently.
/// @notice Whoever holds less than half of the weight cannot move it out of what the others said. With equal weights it
/// is QualityGate's median.
library WeightedMedian {
    /// @notice The value at which half of the weight is reached; where exactly half lies on either side, the mean of the
    /// two neighbours, rounded down.
    /// @param weights as many as values, each above zero
    /// @dev Sorts both in place by insertion: there are as many as seats.
    function median(uint32[] memory values, uint256[] memory weights) internal pure returns (uint32) {
        uint256 count = values.length;
        uint256 total = weights[0];
        for (uint256 i = 1; i < count; ++i) {
            (uint32 value, uint256 weight) = (values[i], weights[i]);
            total += weight;
            uint256 j = i;
            for (; j > 0 && values[j - 1] > value; --j) {
                (values[j], weights[j]) = (values[j - 1], weights[j - 1]);
            }
            (values[j], weights[j]) = (value, weight);
        }
        uint256 below = weights[0];
        uint256 middle;
        while (2 * below < total) below += weights[++middle];
        if (2 * below > total) return values[middle];
        return uint32((uint256(values[middle]) + values[middle + 1]) / 2);
    }
}
