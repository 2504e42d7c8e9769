// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {QualityGate, Verdict} from "../src/QualityGate.sol";
import {Quorum} from "../src/Quorum.sol";
import {Cheats} from "./Cheats.sol";

contract QualityGateTest is Cheats {
    uint32 private constant PPM = 1_000_000;

    /// Approved means that each of the three conditions holds, and nothing else does.
    function testFuzz_approvedIffEveryConditionHolds(
        uint96 approved,
        uint96 needed,
        uint32 accuracy,
        uint32 baseline,
        uint32 threshold,
        uint32 maxRegression
    ) public pure {
        (accuracy, baseline) = (accuracy % (PPM + 1), baseline % (PPM + 1));
        (threshold, maxRegression) = (threshold % (PPM + 1), maxRegression % (PPM + 1));
        Verdict verdict = QualityGate.judge(approved, needed, accuracy, baseline, threshold, maxRegression);
        bool holds = approved >= needed && accuracy >= threshold && uint256(accuracy) + maxRegression >= baseline;
        assert(holds == (verdict == Verdict.Approved));
    }

    /// More stake or a higher accuracy never turns an approval into a rejection.
    function testFuzz_betterIsNeverWorse(
        uint96 approved,
        uint96 more,
        uint32 accuracy,
        uint32 gain,
        uint32 threshold,
        uint32 baseline
    ) public pure {
        accuracy %= PPM;
        gain %= PPM - accuracy;
        if (QualityGate.judge(approved, 100, accuracy, baseline, threshold, 1000) != Verdict.Approved) return;
        assert(
            QualityGate.judge(uint256(approved) + more, 100, accuracy + gain, baseline, threshold, 1000)
                == Verdict.Approved
        );
    }

    /// A quorum is more than half, never more than all, and no two of them fit into the whole without an overlap.
    function testFuzz_twoQuorumsOverlap(uint96 total, uint32 part) public pure {
        part = uint32(within(part, PPM / 2 + 1, PPM));
        assert(Quorum.isPart(part) && !Quorum.isPart(PPM / 2) && !Quorum.isPart(PPM + 1) && !Quorum.isPart(0));
        uint256 needed = Quorum.weightOf(total, part);
        assert(2 * needed > total && needed > 0 && (needed <= total || total == 0));
    }
}
