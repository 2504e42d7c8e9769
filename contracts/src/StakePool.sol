// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

/// @title Tokens that many hold shares of, so that a reward or a slash reaches them all without a loop.
/// @notice All rounding favours the pool: shares never redeem more than it holds. The virtual shares keep whoever comes
/// first from pricing out whoever comes second (the donation attack on ERC-4626 vaults).
library StakePool {
    uint256 private constant VIRTUAL_SHARES = 1000;
    uint256 private constant PPM = 1_000_000;

    struct Pool {
        uint256 tokens;
        uint256 shares;
    }

    error NothingMoved(uint256 amount);

    function deposit(Pool storage pool, uint256 tokens) internal returns (uint256 shares) {
        shares = Math.mulDiv(tokens, pool.shares + VIRTUAL_SHARES, pool.tokens + 1);
        if (shares == 0) revert NothingMoved(tokens);
        pool.tokens += tokens;
        pool.shares += shares;
    }

    function redeem(Pool storage pool, uint256 shares) internal returns (uint256 tokens) {
        tokens = worth(pool, shares);
        pool.tokens -= tokens;
        pool.shares -= shares;
    }

    function worth(Pool storage pool, uint256 shares) internal view returns (uint256 tokens) {
        return Math.mulDiv(shares, pool.tokens + 1, pool.shares + VIRTUAL_SHARES);
    }

    /// @notice Take a part, in ppm, from all who hold shares.
    function slash(Pool storage pool, uint256 part) internal returns (uint256 taken) {
        taken = Math.mulDiv(pool.tokens, part, PPM);
        pool.tokens -= taken;
    }
}
