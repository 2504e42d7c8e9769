// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";
import {Signed} from "./Signed.sol";

/// @notice What a registered party may be. The same words and numbers as `Role` in gemel/ports.py.
enum Role {
    None,
    Agent,
    Coordinator,
    Custodian,
    Validator,
    Listener,
    Auditor
}

/// @title Who takes part: the one source of truth about parties and their roles.
/// @notice The operator (AccessControl's `OPERATOR_ROLE`) enters and suspends parties; a party proves by its signature that
/// it holds the key, so nobody enters an address for another. A party's role stands in its record and nowhere else:
/// RoundRegistry asks this contract at each call, so a suspension acts everywhere at once and no second list of rights can
/// disagree with this one.
contract DeviceRegistry is AccessControl, Signed {
    /// @notice Who may register and suspend parties, and create tasks.
    bytes32 public constant OPERATOR_ROLE = keccak256("OPERATOR_ROLE");

    /// @notice One line of the registry.
    struct Party {
        address account; // signs all that the party says
        address owner; // whom the device belongs to; owners, not devices, are counted against the minimum
        Role role;
        bool active; // beside owner and role: one word of storage answers `isActive`
        bytes32 box; // Curve25519 key: what is meant for this party only is wrapped for it
    }

    bytes32 private constant REGISTRATION_TYPE =
        keccak256("Registration(address account,address owner,uint8 role,bytes32 box)");

    mapping(address account => Party) private _parties;
    address[] private _accounts;

    event PartyRegistered(address indexed account, address indexed owner, Role role, bytes32 box);
    event PartySuspended(address indexed account);

    error ZeroAddress();
    error RoleMissing(address account);
    error AlreadyRegistered(address account);
    error NotActive(address account);

    /// @param operator gets both the right to work and the right to hand it on (DEFAULT_ADMIN_ROLE).
    constructor(address operator) {
        if (operator == address(0)) revert ZeroAddress();
        _grantRole(DEFAULT_ADMIN_ROLE, operator);
        _grantRole(OPERATOR_ROLE, operator);
    }

    /// @notice Enter a party. An address is registered once: whoever was suspended comes back with a new key.
    /// @param proof `Registration` of these values, signed with the account's key
    function register(address account, address owner, Role role, bytes32 box, bytes calldata proof)
        external
        onlyRole(OPERATOR_ROLE)
    {
        if (account == address(0) || owner == address(0)) revert ZeroAddress();
        if (role == Role.None) revert RoleMissing(account);
        if (_parties[account].role != Role.None) revert AlreadyRegistered(account);
        _requireSigned(account, keccak256(abi.encode(REGISTRATION_TYPE, account, owner, role, box)), proof);
        _parties[account] = Party(account, owner, role, true, box);
        _accounts.push(account);
        emit PartyRegistered(account, owner, role, box);
    }

    /// @notice From now on this party counts no more. What it signed and the chain accepted before stands.
    function suspend(address account) external onlyRole(OPERATOR_ROLE) {
        Party storage entry = _parties[account];
        if (!entry.active) revert NotActive(account);
        entry.active = false;
        emit PartySuspended(account);
    }

    /// @notice Whether `account` is registered in this role and not suspended.
    function isActive(address account, Role role) external view returns (bool) {
        Party storage entry = _parties[account];
        return entry.active && entry.role == role;
    }

    /// @notice One party; its role is `None` if it is unknown.
    function party(address account) external view returns (Party memory) {
        return _parties[account];
    }

    /// @notice How many parties were ever registered.
    function partyCount() external view returns (uint256) {
        return _accounts.length;
    }

    /// @notice Up to `limit` parties from position `start` on, in order of registration.
    function parties(uint256 start, uint256 limit) external view returns (Party[] memory page) {
        uint256 count = _accounts.length;
        if (start >= count) return page;
        uint256 size = limit < count - start ? limit : count - start;
        page = new Party[](size);
        for (uint256 i; i < size; ++i) {
            page[i] = _parties[_accounts[start + i]];
        }
    }
}
