// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title The median of values that weigh differently.
/// @notice Whoever holds less than half of the weight cannot move it out of what the others said.
library WeightedMedian {
    /// @notice The value at which half of the weight is reached; where exactly half lies on either side, the mean of the
    /// two neighbours, rounded down.
    /// @param weights of the values, each above zero; both are left as they were
    /// @param count how many of them there are, from the start; at least one
    /// @dev Sorts copies by insertion: there are as many as seats.
    function median(uint32[] memory values, uint256[] memory weights, uint256 count) internal pure returns (uint32) {
        uint32[] memory sorted = new uint32[](count);
        uint256[] memory moved = new uint256[](count);
        // slither-disable-next-line uninitialized-local  counts from 0
        uint256 total;
        for (uint256 i; i < count; ++i) {
            total += weights[i];
            uint256 j = i;
            for (; j > 0 && sorted[j - 1] > values[i]; --j) {
                (sorted[j], moved[j]) = (sorted[j - 1], moved[j - 1]);
            }
            (sorted[j], moved[j]) = (values[i], weights[i]);
        }
        uint256 below = moved[0];
        uint256 middle;
        while (2 * below < total) below += moved[++middle];
        if (2 * below > total) return sorted[middle];
        return uint32((uint256(sorted[middle]) + sorted[middle + 1]) / 2);
    }
}
