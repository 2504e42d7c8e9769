// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

/// @title A part of the elected stake, in ppm, that must agree.
library Quorum {
    uint256 private constant WHOLE = 1_000_000; // ppm

    /// @notice Above a half, so that no two quorums contradict each other without a traitor.
    function isPart(uint32 part) internal pure returns (bool) {
        return part > WHOLE / 2 && part <= WHOLE;
    }

    /// @notice The weight that it takes, rounded up; never zero, so that nobody is no quorum.
    function weightOf(uint256 total, uint32 part) internal pure returns (uint256) {
        return Math.max(1, Math.mulDiv(total, part, WHOLE, Math.Rounding.Ceil));
    }
}
