// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC5267} from "@openzeppelin/contracts/interfaces/IERC5267.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {Attestations} from "./Attestations.sol";

/// @title What a validator signed for the RoundRegistry, hashed by another contract.
/// @notice The structs and the domain are those of Attestations.sol: a vote is signed once, and the registry, the
/// election and the agents all read the same signature. A test holds the type strings to the same text.
library AttestationHashes {
    bytes32 private constant SUM_TYPE = keccak256(
        "SumAttestation(bytes32 task,uint64 round,bytes32 updatesRoot,bytes32 sumDigest,uint32 owners,uint64 weight)"
    );
    bytes32 private constant MODEL_TYPE = keccak256(
        "ModelAttestation(bytes32 task,uint64 round,uint64 deployment,bytes32 parent,bytes32 model,"
        "uint32 accuracy,uint32 baseline,bool approved)"
    );

    /// @notice The domain separator of `registry`, as it describes itself (ERC-5267).
    function domainOf(IERC5267 registry) internal view returns (bytes32) {
        (bytes1 fields, string memory name, string memory version, uint256 chainId, address place, bytes32 salt,) =
            registry.eip712Domain();
        return MessageHashUtils.toDomainSeparator(fields, name, version, chainId, place, salt);
    }

    function signedHash(Attestations.SumAttestation memory attestation, bytes32 domain)
        internal
        pure
        returns (bytes32)
    {
        return MessageHashUtils.toTypedDataHash(domain, keccak256(abi.encode(SUM_TYPE, attestation)));
    }

    function signedHash(Attestations.ModelAttestation memory attestation, bytes32 domain)
        internal
        pure
        returns (bytes32)
    {
        return MessageHashUtils.toTypedDataHash(domain, keccak256(abi.encode(MODEL_TYPE, attestation)));
    }
}
