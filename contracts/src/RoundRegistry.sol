// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {Attestations} from "./Attestations.sol";
import {DeviceRegistry, Role} from "./DeviceRegistry.sol";
import {QualityGate, Verdict} from "./QualityGate.sol";

/// @notice Those states of a round that are decided on chain: the words and numbers of `RoundState` in gemel/ports.py.
enum RoundState {
    None,
    Open,
    Listed,
    Aggregated,
    Confirmed,
    Opened,
    Measured,
    Approved,
    Rejected,
    Deployed,
    RolledBack,
    Aborted
}

/// @title Tasks, their rounds and the lineage of their models.
/// @notice Holds digests, roots, counts and votes; no weight of any model and no reading of any machine.
///
///     open → listed → aggregated → confirmed → opened → measured → approved → deployed
///                                                                ↘ rejected
///     any state before a verdict → aborted
///
/// Who may do what is asked of the DeviceRegistry at each call: the operator is its `OPERATOR_ROLE`, every other party
/// the role of its active record. This contract keeps no rights of its own. Validators send no transactions: anybody
/// may hand in their signatures. A task is named by the keccak of its text.
contract RoundRegistry is Attestations {
    /// @notice The gate of a task, and what is in use.
    struct Task {
        uint32 threshold; // ppm; the median accuracy that a candidate must reach
        uint32 maxRegression; // ppm; how far its median may fall below that of the model in use
        uint32 minimumOwners; // distinct owners behind a sum
        uint32 quorum; // validators that must confirm a sum, and approve a model; 0 if the task is unknown
        uint64 lastRound;
        uint64 deployment; // number of the model in use; 0 before M0 is approved
        bytes32 model;
    }

    /// @notice A round as it stands.
    struct Round {
        RoundState state;
        bytes32 base; // the model it starts from; 0 in round 0
        bytes32 policy;
        bytes32 rosterRoot;
        bytes32 updatesRoot;
        bytes32 sumDigest;
        uint32 owners;
        uint64 weight;
        bytes32 opened;
        bytes32 model; // the candidate
        bytes32 explanation;
        uint64 deployment; // 0 until approved
        uint32 accuracy; // the validators' median, ppm; 0 until there is a verdict
        uint32 baseline; // the same for the model in use
    }

    /// @notice Where an approved model comes from.
    struct Lineage {
        bytes32 parent; // 0 for M0
        uint64 round;
        uint64 deployment; // 0 if this model was never approved
    }

    struct Ballot {
        uint32 confirmations;
        uint32 approvals;
        uint32[] accuracies;
        uint32[] baselines;
        mapping(address validator => bool) confirmed;
        mapping(address validator => bool) voted;
    }

    uint32 private constant PPM = 1_000_000;

    /// @notice Who the parties are.
    DeviceRegistry public immutable devices;

    mapping(bytes32 task => Task) private _tasks;
    mapping(bytes32 task => mapping(uint64 round => Round)) private _rounds;
    mapping(bytes32 task => mapping(uint64 round => Ballot)) private _ballots;
    mapping(bytes32 task => mapping(bytes32 model => Lineage)) private _lineage;

    event TaskCreated(
        bytes32 indexed task,
        string name,
        uint32 threshold,
        uint32 maxRegression,
        uint32 minimumOwners,
        uint32 quorum
    );
    event RoundOpened(bytes32 indexed task, uint64 indexed round, bytes32 base, bytes32 policy);
    event ListClosed(bytes32 indexed task, uint64 indexed round, bytes32 root);
    event SumProposed(
        bytes32 indexed task,
        uint64 indexed round,
        bytes32 updatesRoot,
        bytes32 sumDigest,
        uint32 owners,
        uint64 weight
    );
    event SumAttested(bytes32 indexed task, uint64 indexed round, address indexed validator, bytes signature);
    event SumConfirmed(
        bytes32 indexed task,
        uint64 indexed round,
        bytes32 updatesRoot,
        bytes32 sumDigest,
        uint32 owners,
        uint64 weight
    );
    event SumOpened(bytes32 indexed task, uint64 indexed round, bytes32 opened);
    event CandidateProposed(
        bytes32 indexed task,
        uint64 indexed round,
        bytes32 parent,
        bytes32 model,
        bytes32 explanation,
        uint32 accuracy
    );
    event ModelAttested(
        bytes32 indexed task,
        uint64 indexed round,
        address indexed validator,
        uint32 accuracy,
        uint32 baseline,
        bool approved,
        bytes signature
    );
    event RoundApproved(
        bytes32 indexed task,
        uint64 indexed round,
        uint64 deployment,
        bytes32 parent,
        bytes32 model,
        uint32 accuracy,
        uint32 baseline
    );
    event RoundRejected(
        bytes32 indexed task,
        uint64 indexed round,
        bytes32 model,
        uint32 accuracy,
        uint32 baseline,
        uint32 approvals,
        Verdict reason
    );
    event RoundDeployed(
        bytes32 indexed task, uint64 indexed round, uint64 deployment, bytes32 model, uint32 agents
    );
    event RoundAborted(bytes32 indexed task, uint64 indexed round, string reason);

    error NotInRole(address account, Role role);
    error TaskExists(bytes32 task);
    error UnknownTask(bytes32 task);
    error GateOutOfRange(uint32 threshold, uint32 maxRegression, uint32 minimumOwners, uint32 quorum);
    error AccuracyOutOfRange(uint32 accuracy);
    error DigestMissing();
    error GenesisExists(bytes32 task);
    error NotNextRound(uint64 round, uint64 expected);
    error LastRoundNotFinal(uint64 lastRound, RoundState state);
    error NotModelInUse(bytes32 base, bytes32 inUse);
    error WrongState(RoundState state);
    error TooFewOwners(uint32 owners, uint32 minimum);
    error AlreadyAttested(address validator);
    error ModelKnown(bytes32 model, uint64 round);
    error QuorumNotReached(uint256 votes, uint32 quorum);

    modifier onlyParty(Role role) {
        _requireRole(msg.sender, role);
        _;
    }

    constructor(DeviceRegistry devices_) {
        devices = devices_;
    }

    // --- operator ---------------------------------------------------------------------------

    /// @notice Define a task and its gate; both stay as they are.
    /// @param name its text; the task's id is its keccak
    function createTask(
        string calldata name,
        uint32 threshold,
        uint32 maxRegression,
        uint32 minimumOwners,
        uint32 quorum
    ) external {
        bytes32 operator = devices.OPERATOR_ROLE();
        if (!devices.hasRole(operator, msg.sender)) {
            revert IAccessControl.AccessControlUnauthorizedAccount(msg.sender, operator);
        }
        bytes32 id = keccak256(bytes(name));
        if (_tasks[id].quorum != 0) revert TaskExists(id);
        if (threshold > PPM || maxRegression > PPM || minimumOwners == 0 || quorum == 0) {
            revert GateOutOfRange(threshold, maxRegression, minimumOwners, quorum);
        }
        _tasks[id] = Task(threshold, maxRegression, minimumOwners, quorum, 0, 0, 0);
        emit TaskCreated(id, name, threshold, maxRegression, minimumOwners, quorum);
    }

    // --- coordinator ------------------------------------------------------------------------

    /// @notice Round 0: M0 as its candidate, straight to `Measured`. For M0 the gate asks for the approvals only.
    function proposeGenesis(bytes32 task_, bytes32 model, bytes32 policy) external onlyParty(Role.Coordinator) {
        _requireTask(task_);
        Round storage entry = _rounds[task_][0];
        if (entry.state != RoundState.None) revert GenesisExists(task_);
        _requireDigest(model);
        _requireDigest(policy);
        entry.state = RoundState.Measured;
        entry.policy = policy;
        entry.model = model;
        emit RoundOpened(task_, 0, 0, policy);
        emit CandidateProposed(task_, 0, 0, model, 0, 0);
    }

    /// @notice Begin the next round, from the model in use, once the last round is final.
    function openRound(bytes32 task_, uint64 round_, bytes32 base, bytes32 policy)
        external
        onlyParty(Role.Coordinator)
    {
        Task storage parent = _requireTask(task_);
        uint64 last = parent.lastRound;
        if (round_ != last + 1) revert NotNextRound(round_, last + 1);
        RoundState lastState = _rounds[task_][last].state;
        if (!_isFinal(lastState)) revert LastRoundNotFinal(last, lastState);
        _requireDigest(base);
        _requireDigest(policy);
        if (base != parent.model) revert NotModelInUse(base, parent.model);
        parent.lastRound = round_;
        Round storage entry = _rounds[task_][round_];
        entry.state = RoundState.Open;
        entry.base = base;
        entry.policy = policy;
        emit RoundOpened(task_, round_, base, policy);
    }

    /// @notice Nobody joins any more: the Merkle root of the commitments.
    function closeList(bytes32 task_, uint64 round_, bytes32 root) external onlyParty(Role.Coordinator) {
        Round storage entry = _requireState(task_, round_, RoundState.Open);
        _requireDigest(root);
        entry.state = RoundState.Listed;
        entry.rosterRoot = root;
        emit ListClosed(task_, round_, root);
    }

    /// @notice The sealed sum. Too few owners are refused here, before a validator or the custodian looks at it.
    /// @param updatesRoot Merkle root of (device, digest, n_k, level) over the frames in the sum
    /// @param owners distinct owners of the contributing devices; validators recompute it
    /// @param weight sum of level times n_k
    function proposeSum(
        bytes32 task_,
        uint64 round_,
        bytes32 updatesRoot,
        bytes32 sumDigest,
        uint32 owners,
        uint64 weight
    ) external onlyParty(Role.Coordinator) {
        Round storage entry = _requireState(task_, round_, RoundState.Listed);
        _requireDigest(updatesRoot);
        _requireDigest(sumDigest);
        uint32 minimum = _tasks[task_].minimumOwners;
        if (owners < minimum) revert TooFewOwners(owners, minimum);
        entry.state = RoundState.Aggregated;
        entry.updatesRoot = updatesRoot;
        entry.sumDigest = sumDigest;
        entry.owners = owners;
        entry.weight = weight;
        emit SumProposed(task_, round_, updatesRoot, sumDigest, owners, weight);
    }

    /// @notice The candidate made from the opened sum. A model that was approved before is refused: lineage has no loops.
    /// @param accuracy what the coordinator measured itself; for the record (the event), it has no vote
    function proposeCandidate(bytes32 task_, uint64 round_, bytes32 model, bytes32 explanation, uint32 accuracy)
        external
        onlyParty(Role.Coordinator)
    {
        Round storage entry = _requireState(task_, round_, RoundState.Opened);
        _requireDigest(model);
        _requirePpm(accuracy);
        Lineage storage known = _lineage[task_][model];
        if (known.deployment != 0) revert ModelKnown(model, known.round);
        entry.state = RoundState.Measured;
        entry.model = model;
        entry.explanation = explanation;
        emit CandidateProposed(task_, round_, entry.base, model, explanation, accuracy);
    }

    /// @notice Let the gate decide, once a quorum of validators has voted.
    function finalise(bytes32 task_, uint64 round_) external onlyParty(Role.Coordinator) {
        Round storage entry = _requireState(task_, round_, RoundState.Measured);
        Task storage parent = _tasks[task_];
        Ballot storage ballot = _ballots[task_][round_];
        if (ballot.accuracies.length < parent.quorum) {
            revert QuorumNotReached(ballot.accuracies.length, parent.quorum);
        }
        bool genesis = round_ == 0; // M0 is not trained yet, and nothing was before it
        (Verdict verdict, uint32 accuracy, uint32 baseline) = QualityGate.judge(
            ballot.accuracies,
            ballot.baselines,
            ballot.approvals,
            parent.quorum,
            genesis ? 0 : parent.threshold,
            genesis ? PPM : parent.maxRegression
        );
        entry.accuracy = accuracy;
        entry.baseline = baseline;
        bytes32 model = entry.model;
        if (verdict != Verdict.Approved) {
            entry.state = RoundState.Rejected;
            emit RoundRejected(task_, round_, model, accuracy, baseline, ballot.approvals, verdict);
            return;
        }
        uint64 deployment = parent.deployment + 1;
        entry.state = RoundState.Approved;
        entry.deployment = deployment;
        parent.deployment = deployment;
        parent.model = model;
        _lineage[task_][model] = Lineage(entry.base, round_, deployment);
        emit RoundApproved(task_, round_, deployment, entry.base, model, accuracy, baseline);
    }

    /// @notice Give a round up; only before a verdict.
    function abort(bytes32 task_, uint64 round_, string calldata reason) external onlyParty(Role.Coordinator) {
        Round storage entry = _rounds[task_][round_];
        if (entry.state < RoundState.Open || entry.state > RoundState.Measured) revert WrongState(entry.state);
        entry.state = RoundState.Aborted;
        emit RoundAborted(task_, round_, reason);
    }

    // --- validators' signatures, handed in by anybody ------------------------------------------

    /// @notice A validator recomputed the sum. At quorum the sum is confirmed; later signatures are still recorded.
    function attestSum(bytes32 task_, uint64 round_, address validator, bytes calldata signature) external {
        Round storage entry = _rounds[task_][round_];
        if (entry.state != RoundState.Aggregated && entry.state != RoundState.Confirmed) {
            revert WrongState(entry.state);
        }
        _requireRole(validator, Role.Validator);
        Ballot storage ballot = _ballots[task_][round_];
        if (ballot.confirmed[validator]) revert AlreadyAttested(validator);
        _check(
            SumAttestation(task_, round_, entry.updatesRoot, entry.sumDigest, entry.owners, entry.weight),
            validator,
            signature
        );
        ballot.confirmed[validator] = true;
        uint32 confirmations = ++ballot.confirmations;
        emit SumAttested(task_, round_, validator, signature);
        if (confirmations == _tasks[task_].quorum) {
            entry.state = RoundState.Confirmed;
            emit SumConfirmed(task_, round_, entry.updatesRoot, entry.sumDigest, entry.owners, entry.weight);
        }
    }

    /// @notice A validator measured the candidate and the model in use: one vote for each validator.
    function attestModel(
        bytes32 task_,
        uint64 round_,
        address validator,
        uint32 accuracy,
        uint32 baseline,
        bool approved,
        bytes calldata signature
    ) external {
        Round storage entry = _requireState(task_, round_, RoundState.Measured);
        _requirePpm(accuracy);
        _requirePpm(baseline);
        _requireRole(validator, Role.Validator);
        Ballot storage ballot = _ballots[task_][round_];
        if (ballot.voted[validator]) revert AlreadyAttested(validator);
        _check(
            ModelAttestation(
                task_, round_, _tasks[task_].deployment + 1, entry.base, entry.model, accuracy, baseline, approved
            ),
            validator,
            signature
        );
        ballot.voted[validator] = true;
        ballot.accuracies.push(accuracy);
        ballot.baselines.push(baseline);
        if (approved) ++ballot.approvals;
        emit ModelAttested(task_, round_, validator, accuracy, baseline, approved, signature);
    }

    // --- custodian, listener --------------------------------------------------------------------

    /// @notice The custodian opened the confirmed sum; once.
    function recordOpening(bytes32 task_, uint64 round_, bytes32 opened) external onlyParty(Role.Custodian) {
        Round storage entry = _requireState(task_, round_, RoundState.Confirmed);
        _requireDigest(opened);
        entry.state = RoundState.Opened;
        entry.opened = opened;
        emit SumOpened(task_, round_, opened);
    }

    /// @notice The approved model went out; `agents` said that they run it.
    function recordDeployed(bytes32 task_, uint64 round_, uint32 agents) external onlyParty(Role.Listener) {
        Round storage entry = _requireState(task_, round_, RoundState.Approved);
        entry.state = RoundState.Deployed;
        emit RoundDeployed(task_, round_, entry.deployment, entry.model, agents);
    }

    // --- views ------------------------------------------------------------------------------

    /// @notice A task; its quorum is 0 if it is unknown.
    function task(bytes32 task_) external view returns (Task memory) {
        return _tasks[task_];
    }

    /// @notice A round; its state is `None` if there is none.
    function round(bytes32 task_, uint64 round_) external view returns (Round memory) {
        return _rounds[task_][round_];
    }

    /// @notice Parent, round and deployment number of an approved model.
    function lineage(bytes32 task_, bytes32 model) external view returns (Lineage memory) {
        return _lineage[task_][model];
    }

    // --- checks -----------------------------------------------------------------------------

    function _requireRole(address account, Role role) private view {
        if (!devices.isActive(account, role)) revert NotInRole(account, role);
    }

    function _requireTask(bytes32 task_) private view returns (Task storage found) {
        found = _tasks[task_];
        if (found.quorum == 0) revert UnknownTask(task_);
    }

    function _requireState(bytes32 task_, uint64 round_, RoundState needed)
        private
        view
        returns (Round storage entry)
    {
        entry = _rounds[task_][round_];
        if (entry.state != needed) revert WrongState(entry.state);
    }

    function _requireDigest(bytes32 digest) private pure {
        if (digest == 0) revert DigestMissing();
    }

    function _requirePpm(uint32 accuracy) private pure {
        if (accuracy > PPM) revert AccuracyOutOfRange(accuracy);
    }

    function _isFinal(RoundState state) private pure returns (bool) {
        return state >= RoundState.Rejected; // rejected, deployed, rolled back or aborted
    }
}
