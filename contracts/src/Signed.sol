// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

/// @title What counts because the one named signed it (EIP-712), whoever hands it in.
/// @notice The domain is "Gemel", version "1", this chain and the inheriting contract, as in gemel/wire/eip712.py.
abstract contract Signed is EIP712 {
    /// @param recovered who did sign, or zero if the bytes are no signature.
    error BadSignature(address signer, address recovered);

    constructor() EIP712("Gemel", "1") {}

    /// @notice The EIP-712 domain separator; dearer to rebuild from `eip712Domain()`.
    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    function _requireSigned(address signer, bytes32 structHash, bytes calldata signature) internal view {
        // slither-disable-next-line unused-return  the third value says more about the failure
        (address recovered, ECDSA.RecoverError failure,) =
            ECDSA.tryRecoverCalldata(_hashTypedDataV4(structHash), signature);
        if (failure != ECDSA.RecoverError.NoError || recovered != signer) revert BadSignature(signer, recovered);
    }
}
