// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {QualityGate, Verdict} from "../src/QualityGate.sol";
import {WeightedMedian} from "../src/WeightedMedian.sol";
import {Cheats} from "./Cheats.sol";

/// @notice What holds of the gate for every input, not for those that a fuzzer met: `npm run prove` has halmos execute
/// each `check_` function on symbolic values and an SMT solver look for one that breaks an assertion. The number of
/// votes is fixed in each, because a loop is unrolled; the accuracies and weights are any at all.
contract GateProofs is Cheats {
    uint256 private constant MOST_WEIGHT = type(uint96).max; // as the election stores stakes

    // --- the verdict ----------------------------------------------------------------------------

    /// Approved means a quorum of approvals, a median at the threshold, and no regression beyond what is allowed; and
    /// where all three hold the verdict is nothing else.
    function check_approvedIffEveryConditionHolds(
        uint256 approved,
        uint256 needed,
        uint32 accuracy,
        uint32 baseline,
        uint32 threshold,
        uint32 maxRegression
    ) public pure {
        Verdict verdict = QualityGate.judge(approved, needed, accuracy, baseline, threshold, maxRegression);
        bool holds = approved >= needed && accuracy >= threshold && uint256(accuracy) + maxRegression >= baseline;
        assert(holds == (verdict == Verdict.Approved));
    }
}
