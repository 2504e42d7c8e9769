// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {IElectorate} from "./IElectorate.sol";
import {Quorum} from "./Quorum.sol";

/// @title What counts because a quorum of the elected signed it.
/// @notice The quorum is a part of the whole elected stake: who does not sign counts as no.
abstract contract QuorumSigned {
    IElectorate public immutable electorate;
    /// @notice ppm of the elected stake.
    uint32 public immutable quorumPart;

    error QuorumOutOfRange(uint32 part);
    error QuorumMissing(uint256 weight, uint256 needed);
    error SignersUnordered(address before, address signer);

    constructor(IElectorate electorate_, uint32 quorumPart_) {
        if (!Quorum.isPart(quorumPart_)) revert QuorumOutOfRange(quorumPart_);
        (electorate, quorumPart) = (electorate_, quorumPart_);
    }

    /// @notice The weight that a quorum has now.
    function quorumWeight() public view returns (uint256) {
        return Quorum.weightOf(electorate.totalWeight(), quorumPart);
    }

    /// @param signatures ordered by rising signer, which counts each signer once
    function _requireQuorum(bytes32 signed, bytes[] calldata signatures) internal view {
        // slither-disable-next-line uninitialized-local  below every signer
        address before;
        // slither-disable-next-line uninitialized-local  counts from 0
        uint256 weight;
        for (uint256 i; i < signatures.length; ++i) {
            address signer = ECDSA.recoverCalldata(signed, signatures[i]);
            if (signer <= before) revert SignersUnordered(before, signer);
            // slither-disable-next-line calls-loop  our own contract, as often as there are seats
            weight += electorate.weightOf(signer);
            before = signer;
        }
        uint256 needed = quorumWeight();
        if (weight < needed) revert QuorumMissing(weight, needed);
    }
}
