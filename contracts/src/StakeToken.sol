// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @title The stake: an ERC-20 that the consortium issues to itself once, when the network begins.
/// @notice Nobody can make more of it afterwards, so no vote can be diluted. It has no price and needs none: it is the
/// members' weight, and what they lose when somebody proves that they lied.
contract StakeToken is ERC20 {
    error HoldersUnequal(uint256 holders, uint256 amounts);
    error SupplyOutOfRange(uint256 supply);

    /// @param amounts what each holder gets, in 10^-18; together at most 2^96 - 1, so that a weight fits in 96 bits
    constructor(address[] memory holders, uint256[] memory amounts) ERC20("Gemel Stake", "GMS") {
        if (holders.length != amounts.length) revert HoldersUnequal(holders.length, amounts.length);
        for (uint256 i; i < holders.length; ++i) {
            _mint(holders[i], amounts[i]);
        }
        if (totalSupply() == 0 || totalSupply() > type(uint96).max) revert SupplyOutOfRange(totalSupply());
    }
}
