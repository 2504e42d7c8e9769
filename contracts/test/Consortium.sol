// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC5267} from "@openzeppelin/contracts/interfaces/IERC5267.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {DeviceRegistry, Role} from "../src/DeviceRegistry.sol";
import {Election} from "../src/Election.sol";
import {QualityVotes} from "../src/QualityVotes.sol";
import {RoundRegistry} from "../src/RoundRegistry.sol";
import {StakeToken} from "../src/StakeToken.sol";
import {Cheats} from "./Cheats.sol";

/// @notice A small network: five validators with tokens and keys, a registry of rounds, an election, a counter of votes.
/// The inheriting test is operator, administrator and a holder of tokens.
abstract contract Consortium is Cheats {
    uint256 internal constant VALIDATORS = 5;
    uint256 internal constant EACH = 1000 ether;
    uint64 internal constant EPOCH_S = 1 days;
    uint64 internal constant UNBONDING_S = 7 days;
    uint96 internal constant REWARD = 10 ether;
    uint32 internal constant TOLERANCE = 100_000;
    uint64 internal constant COMMIT_S = 60;
    uint64 internal constant REVEAL_S = 40;
    uint256 internal constant COORDINATOR = 31; // keys
    uint256 internal constant CUSTODIAN = 32;
    uint256 internal constant LISTENER = 33;

    DeviceRegistry internal devices;
    RoundRegistry internal rounds;
    StakeToken internal token;
    Election internal election;
    QualityVotes internal quality;

    function _found(uint16 seats, uint16 capacity) internal {
        devices = new DeviceRegistry(address(this));
        rounds = new RoundRegistry(devices);
        _register(COORDINATOR, address(1), Role.Coordinator);
        _register(CUSTODIAN, address(2), Role.Custodian);
        _register(LISTENER, address(3), Role.Listener);
        address[] memory holders = new address[](VALIDATORS + 1);
        uint256[] memory amounts = new uint256[](VALIDATORS + 1);
        for (uint256 i; i < VALIDATORS; ++i) {
            holders[i] = _validator(i);
            amounts[i] = EACH;
            _register(_key(i), holders[i], Role.Validator);
        }
        (holders[VALIDATORS], amounts[VALIDATORS]) = (address(this), EACH);
        token = new StakeToken(holders, amounts);
        election = new Election(
            token,
            devices,
            rounds,
            address(this),
            Election.Terms(seats, 1, capacity, 1 ether, EPOCH_S, UNBONDING_S, REWARD, 500_000)
        );
        quality = new QualityVotes(rounds, election, QualityVotes.Terms(TOLERANCE, COMMIT_S, REVEAL_S));
        rounds.bind(election, quality);
        election.grantRole(election.SCORER_ROLE(), address(quality));
        election.grantRole(election.SCORER_ROLE(), address(this));
        token.approve(address(election), type(uint256).max);
        for (uint256 i; i < VALIDATORS; ++i) {
            vm.prank(holders[i]);
            token.approve(address(election), type(uint256).max);
        }
    }

    /// All validators stake, the first most, and take their seats.
    function _seatAll() internal {
        for (uint256 i; i < VALIDATORS; ++i) {
            vm.prank(_validator(i));
            election.stake(100 ether - i * 10 ether, i == 0 ? address(0) : _validator(i - 1));
        }
        election.closeEpoch();
    }

    function _register(uint256 key, address owner, Role role) internal {
        devices.register(vm.addr(key), owner, role, 0, _proof(key, owner, role));
    }

    /// That whoever holds `key` wants to be registered so.
    function _proof(uint256 key, address owner, Role role) internal view returns (bytes memory) {
        bytes32 kind = keccak256("Registration(address account,address owner,uint8 role,bytes32 box)");
        return _signFor(devices, key, keccak256(abi.encode(kind, vm.addr(key), owner, role, bytes32(0))));
    }

    function _key(uint256 index) internal pure returns (uint256) {
        return index + 11;
    }

    function _validator(uint256 index) internal pure returns (address) {
        return vm.addr(_key(index));
    }

    function _signRaw(uint256 key, bytes32 signed) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, signed);
        return abi.encodePacked(r, s, v);
    }

    /// An EIP-712 signature for a contract that describes its own domain.
    function _signFor(IERC5267 target, uint256 key, bytes32 structHash) internal view returns (bytes memory) {
        return _signRaw(key, MessageHashUtils.toTypedDataHash(_domainOf(target), structHash));
    }

    /// The domain separator as the contract describes it (ERC-5267), not as it says it.
    function _domainOf(IERC5267 target) internal view returns (bytes32) {
        (bytes1 fields, string memory name, string memory version, uint256 chainId, address place, bytes32 salt,) =
            target.eip712Domain();
        return MessageHashUtils.toDomainSeparator(fields, name, version, chainId, place, salt);
    }

    /// Signatures of the first `count` validators, ordered by rising signer as a quorum is handed in.
    function _signatures(IERC5267 target, bytes32 structHash, uint256 count)
        internal
        view
        returns (bytes[] memory signatures)
    {
        uint256[] memory keys = new uint256[](count);
        for (uint256 i; i < count; ++i) {
            uint256 j = i;
            for (; j > 0 && vm.addr(keys[j - 1]) > _validator(i); --j) {
                keys[j] = keys[j - 1];
            }
            keys[j] = _key(i);
        }
        signatures = new bytes[](count);
        for (uint256 i; i < count; ++i) {
            signatures[i] = _signFor(target, keys[i], structHash);
        }
    }
}
