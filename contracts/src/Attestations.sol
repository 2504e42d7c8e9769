// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";

/// @title What validators sign for the RoundRegistry (EIP-712): the structs of gemel/wire/attestations.py, word for word.
/// @notice A vote is signed once, and the registry, the ballots, the election and the agents all read the same
/// signature; whoever checks one rebuilds the struct from what stands on chain, so a signature for another round, model
/// or deployment number does not fit.
library Attestations {
    struct SumAttestation {
        bytes32 task;
        uint64 round;
        bytes32 updatesRoot;
        bytes32 sumDigest;
        uint32 owners;
        uint64 weight;
    }

    struct ModelAttestation {
        bytes32 task;
        uint64 round;
        uint64 deployment;
        bytes32 parent;
        bytes32 model;
        uint32 accuracy;
        uint32 baseline;
        bool approved;
    }

    bytes32 private constant SUM_TYPE = keccak256(
        "SumAttestation(bytes32 task,uint64 round,bytes32 updatesRoot,bytes32 sumDigest,uint32 owners,uint64 weight)"
    );
    bytes32 private constant MODEL_TYPE = keccak256(
        "ModelAttestation(bytes32 task,uint64 round,uint64 deployment,bytes32 parent,bytes32 model,"
        "uint32 accuracy,uint32 baseline,bool approved)"
    );

    function structHash(SumAttestation memory attestation) internal pure returns (bytes32) {
        return keccak256(abi.encode(SUM_TYPE, attestation));
    }

    function structHash(ModelAttestation memory attestation) internal pure returns (bytes32) {
        return keccak256(abi.encode(MODEL_TYPE, attestation));
    }

    /// @param domain the RoundRegistry's domain separator
    function signedHash(SumAttestation memory attestation, bytes32 domain) internal pure returns (bytes32) {
        return MessageHashUtils.toTypedDataHash(domain, structHash(attestation));
    }

    function signedHash(ModelAttestation memory attestation, bytes32 domain) internal pure returns (bytes32) {
        return MessageHashUtils.toTypedDataHash(domain, structHash(attestation));
    }
}
