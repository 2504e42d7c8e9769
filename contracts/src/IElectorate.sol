// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @notice Who may vote, and how much each vote weighs: what every contract that counts votes needs of the election.
interface IElectorate {
    /// @notice The elected, heaviest first. Besu's QBFT asks exactly this for its block producers.
    function getValidators() external view returns (address[] memory);

    /// @notice What a vote of `validator` weighs now; 0 for whoever has no vote.
    function weightOf(address validator) external view returns (uint256);

    /// @notice What all who were elected weighed then: the whole of which a quorum is a part.
    function totalWeight() external view returns (uint256);
}
