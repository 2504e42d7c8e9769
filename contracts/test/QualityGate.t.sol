// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {QualityGate, Verdict} from "../src/QualityGate.sol";
import {Cheats} from "./Cheats.sol";

contract QualityGateTest is Cheats {
    uint32 private constant PPM = 1_000_000;

    /// As many values lie at or below the median as at or above it, whatever the order.
    function testFuzz_medianHasHalfOnEachSide(uint32[] memory values) public pure {
        vm.assume(values.length > 0 && values.length < 32);
        uint32[] memory copy = values; // `median` sorts in place: the same values, in order
        uint32 median = QualityGate.median(copy);
        uint256 below;
        uint256 above;
        for (uint256 i; i < values.length; ++i) {
            if (values[i] <= median) ++below;
            if (values[i] >= median) ++above;
            if (i > 0) assert(copy[i - 1] <= copy[i]);
        }
        assert(2 * below >= values.length && (values.length % 2 == 0 || 2 * above >= values.length));
    }

    /// Fewer than half of the validators cannot move the median out of what the others measured.
    function testFuzz_minorityCannotMoveTheMedianOut(uint32 lie, uint32 low, uint32 high) public pure {
        vm.assume(low <= high);
        uint32[] memory values = new uint32[](5);
        (values[0], values[1], values[2], values[3], values[4]) = (lie, low, high, lie, low);
        uint32 median = QualityGate.median(values);
        assert(median >= low && median <= high);
    }

    /// Approved means that each of the three conditions holds, and nothing else does.
    function testFuzz_approvedIffEveryConditionHolds(
        uint32 accuracy,
        uint32 baseline,
        uint8 approvals,
        uint8 quorum,
        uint32 threshold,
        uint32 maxRegression
    ) public pure {
        (accuracy, baseline) = (accuracy % (PPM + 1), baseline % (PPM + 1));
        (threshold, maxRegression) = (threshold % (PPM + 1), maxRegression % (PPM + 1));
        uint32[] memory accuracies = new uint32[](1);
        uint32[] memory baselines = new uint32[](1);
        (accuracies[0], baselines[0]) = (accuracy, baseline);
        (Verdict verdict,,) =
            QualityGate.judge(accuracies, baselines, approvals, quorum, threshold, maxRegression);
        bool holds = approvals >= quorum && accuracy >= threshold
            && uint256(accuracy) + maxRegression >= baseline;
        assert(holds == (verdict == Verdict.Approved));
    }

    /// A higher accuracy never turns an approval into a rejection.
    function testFuzz_betterIsNeverWorse(uint32 accuracy, uint32 gain, uint32 threshold, uint32 baseline) public pure {
        accuracy %= PPM;
        gain %= PPM - accuracy;
        (Verdict before,,) = _judge(accuracy, baseline, threshold);
        (Verdict later,,) = _judge(accuracy + gain, baseline, threshold);
        assert(before != Verdict.Approved || later == Verdict.Approved);
    }

    function _judge(uint32 accuracy, uint32 baseline, uint32 threshold)
        private
        pure
        returns (Verdict, uint32, uint32)
    {
        uint32[] memory accuracies = new uint32[](1);
        uint32[] memory baselines = new uint32[](1);
        (accuracies[0], baselines[0]) = (accuracy, baseline);
        return QualityGate.judge(accuracies, baselines, 1, 1, threshold, 1000);
    }
}
