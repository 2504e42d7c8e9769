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
/// @notice Pure. Accuracies are in parts per million, and medians weighted by stake (WeightedMedian): whoever holds less
/// than half of what voted cannot move them out of what the others measured.
library QualityGate {
    /// @param approved the stake that approves
    /// @param needed the stake that must
    /// @param accuracy median of what was measured of the candidate
    /// @param baseline median of what was measured of the model in use, on the same sets
    /// @return the first condition that fails, in the order of the enum, or `Approved`
    function judge(
        uint256 approved,
        uint256 needed,
        uint32 accuracy,
        uint32 baseline,
        uint32 threshold,
        uint32 maxRegression
    ) internal pure returns (Verdict) {
        if (approved < needed) return Verdict.NoQuorum;
        if (accuracy < threshold) return Verdict.BelowThreshold;
        if (uint256(accuracy) + maxRegression < baseline) return Verdict.Regression;
        return Verdict.Approved;
    }
}
