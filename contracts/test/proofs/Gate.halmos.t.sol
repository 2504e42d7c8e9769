// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {QualityGate, Verdict} from "../../src/QualityGate.sol";
import {Quorum} from "../../src/Quorum.sol";
import {WeightedMedian} from "../../src/WeightedMedian.sol";
import {Cheats} from "../Cheats.sol";

/// @notice What holds of the gate for every input there is, not just for those that a fuzzer drew: `make
/// contracts-check` has halmos run each `check_` function on symbolic values, and a solver look for some that break an
/// assertion. Loops are unrolled, so how many votes there are is fixed in each.
///
/// Weights are one byte wide here and lose nothing by it. A median depends on them only through which sets of votes weigh
/// less than half, half, or more; whatever five weights say of that, five integers up to 80 say, too (corners of the
/// regions are minors of a 4x4 matrix of -1, 0 and 1, so at most 16, and five corners span a region).
contract GateProofs is Cheats {
    uint256 private constant PPM = 1_000_000;

    // --- the verdict ----------------------------------------------------------------------------

    /// Approved means enough approving stake, a median at the threshold and no regression beyond what is allowed; and
    /// where all of it holds the verdict is nothing else.
    function check_approvedIffEveryConditionHolds(
        uint256 approved,
        uint256 needed,
        uint32 accuracy,
        uint32 baseline,
        uint32 threshold,
        uint32 maxRegression
    ) public pure {
        Verdict verdict = QualityGate.judge(approved, needed, accuracy, baseline, threshold, maxRegression);
        bool holds =
            approved >= needed && accuracy >= threshold && uint256(accuracy) + maxRegression >= baseline;
        assert(holds == (verdict == Verdict.Approved));
    }

    /// What a quorum needs is the least weight that is at least its part of the total. Fuzzed: the product of 512 bits
    /// inside is beyond the solvers.
    function testFuzz_quorumIsTheLeastWeightOfItsPart(uint96 total, uint32 part) public pure {
        total = uint96(within(total, 1, type(uint96).max));
        part = uint32(within(part, PPM / 2 + 1, PPM));
        uint256 needed = Quorum.weightOf(total, part);
        assert(needed * PPM >= uint256(total) * part);
        assert((needed - 1) * PPM < uint256(total) * part);
    }

    // --- the median -----------------------------------------------------------------------------

    function check_medianOfOne(uint32[5] calldata values, uint8[5] calldata weights) public pure {
        _halvesTheWeight(values, weights, 1);
    }

    function check_medianOfTwo(uint32[5] calldata values, uint8[5] calldata weights) public pure {
        _halvesTheWeight(values, weights, 2);
    }

    function check_medianOfThree(uint32[5] calldata values, uint8[5] calldata weights) public pure {
        _halvesTheWeight(values, weights, 3);
    }

    function check_medianOfFour(uint32[5] calldata values, uint8[5] calldata weights) public pure {
        _halvesTheWeight(values, weights, 4);
    }

    /// In rising order only: all 120 orders take minutes. That the order does not matter is fuzzed below.
    function check_medianOfFive(uint32[5] calldata values, uint8[5] calldata weights) public pure {
        for (uint256 i = 1; i < 5; ++i) vm.assume(values[i - 1] <= values[i]);
        _halvesTheWeight(values, weights, 5);
    }

    function testFuzz_orderOfTheVotesDoesNotMatter(
        uint32[5] calldata values,
        uint8[5] calldata weights,
        uint256 seed
    ) public pure {
        (uint32[] memory left, uint256[] memory leftWeights) = _votes(values, weights, 5);
        (uint32[] memory right, uint256[] memory rightWeights) = _votes(values, weights, 5);
        for (uint256 i = 4; i > 0; --i) {
            uint256 j = seed % (i + 1);
            seed /= i + 1;
            (right[i], right[j]) = (right[j], right[i]);
            (rightWeights[i], rightWeights[j]) = (rightWeights[j], rightWeights[i]);
        }
        assert(WeightedMedian.median(left, leftWeights, 5) == WeightedMedian.median(right, rightWeights, 5));
    }

    /// @dev No more than half of the weight lies below the median, no more than half above it. So it lies between the
    /// least and the greatest value, and whoever holds less than half cannot move it out of what the others said.
    function _halvesTheWeight(uint32[5] calldata given, uint8[5] calldata heavy, uint256 count) private pure {
        (uint32[] memory values, uint256[] memory weights) = _votes(given, heavy, count);
        uint32 median = WeightedMedian.median(values, weights, count);
        uint256 below;
        uint256 above;
        uint256 total;
        unchecked { // sums of five bytes; an overflow check would be one more branch on every path
            for (uint256 i; i < count; ++i) {
                total += weights[i];
                below += _where(values[i] < median, weights[i]);
                above += _where(values[i] > median, weights[i]);
            }
            assert(2 * below <= total);
            assert(2 * above <= total);
        }
    }

    function _votes(uint32[5] calldata given, uint8[5] calldata heavy, uint256 count)
        private
        pure
        returns (uint32[] memory values, uint256[] memory weights)
    {
        (values, weights) = (new uint32[](count), new uint256[](count));
        for (uint256 i; i < count; ++i) {
            vm.assume(heavy[i] > 0);
            (values[i], weights[i]) = (given[i], heavy[i]);
        }
    }

    /// @dev `value` where the condition holds, else 0; without a branch, which would double the paths each time.
    function _where(bool condition, uint256 value) private pure returns (uint256 result) {
        assembly ("memory-safe") {
            result := and(value, sub(0, condition))
        }
    }
}
