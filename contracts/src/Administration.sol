// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {TimelockController} from "@openzeppelin/contracts/governance/TimelockController.sol";

/// @title The administrator of all the others: nothing it does is sudden.
/// @notice Any member of the consortium announces a call, and any member takes an announced call back until it is made;
/// once the delay is over, anybody makes it. Members and delay themselves change in this way only: there is no other
/// administrator. Give it DEFAULT_ADMIN_ROLE of the DeviceRegistry, the election, maintenance and the anchors, and let
/// whoever founded the network renounce his (README.md).
contract Administration is TimelockController {
    uint256 public constant SHORTEST_DELAY_S = 1 hours;

    error DelayTooShort(uint256 delaySeconds, uint256 shortest);
    error MembersMissing();

    constructor(uint256 delaySeconds, address[] memory members)
        TimelockController(delaySeconds, members, new address[](1), address(0))
    {
        if (delaySeconds < SHORTEST_DELAY_S) revert DelayTooShort(delaySeconds, SHORTEST_DELAY_S);
        if (members.length == 0) revert MembersMissing();
    }
}
