// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

/// @title What validators sign (EIP-712).
/// @notice The structs of gemel/wire/attestations.py, word for word. The domain is "Gemel", version "1", this chain and
/// the contract that inherits this one. Attestations are never taken from the caller: the inheriting contract rebuilds
/// them from what it has stored, so a signature for another round, model or deployment number does not fit.
abstract contract Attestations is EIP712 {
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

    /// @param recovered who did sign, or zero if the bytes are no signature.
    error BadSignature(address validator, address recovered);

    constructor() EIP712("Gemel", "1") {}

    function _check(SumAttestation memory attestation, address validator, bytes calldata signature) internal view {
        _check(keccak256(abi.encode(SUM_TYPE, attestation)), validator, signature);
    }

    function _check(ModelAttestation memory attestation, address validator, bytes calldata signature) internal view {
        _check(keccak256(abi.encode(MODEL_TYPE, attestation)), validator, signature);
    }

    function _check(bytes32 structHash, address validator, bytes calldata signature) private view {
        (address recovered, ECDSA.RecoverError failure,) =
            ECDSA.tryRecoverCalldata(_hashTypedDataV4(structHash), signature);
        if (failure != ECDSA.RecoverError.NoError || recovered != validator) revert BadSignature(validator, recovered);
    }
}
