// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @notice What the gate says; everything but `Approved` is the reason of a rejection.
enum Verdict {
    Approved,
    NoQuorum,
    BelowThreshold,
    Regression
}

/// @title The quality gate: SC(M) == true of the paper.
/// @notice Pure. Accuracies are in parts per million. Medians, because up to half of the validators may lie or hold an
/// odd reference set without moving them out of what the others measured.
library QualityGate {
    /// @notice Judge a candidate by all votes, approving or not.
    /// @param accuracies what each validator measured of the candidate; at least one
    /// @param baselines what it measured of the model in use, on the same set
    /// @param approvals how many of these votes approve
    /// @return verdict the first condition that fails, in the order of the enum, or `Approved`
    /// @return accuracy median of `accuracies`
    /// @return baseline median of `baselines`
    function judge(
        uint32[] memory accuracies,
        uint32[] memory baselines,
        uint256 approvals,
        uint256 quorum,
        uint32 threshold,
        uint32 maxRegression
    ) internal pure returns (Verdict verdict, uint32 accuracy, uint32 baseline) {
        accuracy = median(accuracies);
        baseline = median(baselines);
        if (approvals < quorum) {
            verdict = Verdict.NoQuorum;
        } else if (accuracy < threshold) {
            verdict = Verdict.BelowThreshold;
        } else if (uint256(accuracy) + maxRegression < baseline) {
            verdict = Verdict.Regression;
        }
    }

    /// @notice The middle value; of an even number the mean of the two middle ones, rounded down.
    /// @dev Sorts in place by insertion: there are as many votes as validators, a handful.
    function median(uint32[] memory values) internal pure returns (uint32) {
        uint256 count = values.length;
        for (uint256 i = 1; i < count; ++i) {
            uint32 value = values[i];
            uint256 j = i;
            for (; j > 0 && values[j - 1] > value; --j) {
                values[j] = values[j - 1];
            }
            values[j] = value;
        }
        uint32 upper = values[count / 2];
        if (count % 2 == 1) return upper;
        return uint32((uint256(values[count / 2 - 1]) + upper) / 2);
    }
}
