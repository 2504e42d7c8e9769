// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {Attestations} from "./Attestations.sol";
import {DeviceRegistry, Role} from "./DeviceRegistry.sol";
import {Election} from "./Election.sol";
import {Verdict} from "./QualityGate.sol";
import {QualityVotes} from "./QualityVotes.sol";
import {Quorum} from "./Quorum.sol";
import {Signed} from "./Signed.sol";

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
///                                                                ↘ rejected  ↘       ↘ rolled back
///     any state before a verdict → aborted                                     rolled back
///
/// Who may do what is asked of the DeviceRegistry at each call: the operator is its `OPERATOR_ROLE`, every other party
/// the role of its active record. This contract keeps no rights of its own. Validators send no transactions: anybody
/// may hand in their signatures. They confirm sums here, weighed by elected stake; what they measured of a candidate is
/// counted by QualityVotes, and its verdict is the only way to `Approved`. The electorate of a round is that of the epoch
/// in which it began. A task is named by the keccak of its text.
contract RoundRegistry is Signed {
    using Attestations for Attestations.SumAttestation;

    /// @notice The gate of a task, and what is in use.
    struct Task {
        uint32 threshold; // ppm; the median accuracy that a candidate must reach
        uint32 maxRegression; // ppm; how far its median may fall below that of the model in use
        uint32 minimumOwners; // distinct owners behind a sum
        uint32 quorumPart; // ppm of the elected stake that must confirm a sum, and approve a model; 0 if the task is unknown
        uint64 lastRound;
        uint64 deployment; // number of what is in use; only ever rises; 0 before M0 is approved
        bytes32 model;
        bytes32 policy; // what the next round freezes
    }

    /// @notice A round as it stands.
    struct Round {
        RoundState state;
        uint64 epoch; // of the election: who is elected for it votes in this round
        uint64 openedBlock;
        uint64 deployment; // 0 until approved
        uint32 owners;
        uint64 weight;
        uint32 accuracy; // the validators' median, ppm; 0 until there is a verdict
        uint32 baseline; // the same for the model in use
        bytes32 base; // the model it starts from; 0 in round 0
        bytes32 policy;
        bytes32 rosterRoot;
        bytes32 updatesRoot;
        bytes32 sumDigest;
        bytes32 opened;
        bytes32 model; // the candidate
        bytes32 explanation;
    }

    /// @notice Where an approved model comes from.
    struct Lineage {
        bytes32 parent; // 0 for M0
        uint64 round;
        uint64 deployment; // 0 if this model was never approved
        bool rolledBack;
    }

    /// @notice What a validator signed of a sum.
    struct SumSignature {
        address validator;
        bytes signature;
    }

    /// @dev Who confirmed a sum: one word.
    struct Confirmation {
        uint128 seats; // a bit for each, by its index in the election's `electedAt`
        uint96 weight;
    }

    uint32 private constant PPM = 1_000_000;

    /// @notice Who the parties are.
    DeviceRegistry public immutable devices;
    /// @notice Whose stake counts.
    Election public election;
    /// @notice Who counts what was measured.
    QualityVotes public votes;

    mapping(bytes32 task => Task) private _tasks;
    mapping(bytes32 task => mapping(uint64 round => Round)) private _rounds;
    mapping(bytes32 task => mapping(uint64 round => Confirmation)) private _confirmations;
    mapping(bytes32 task => mapping(bytes32 model => uint64)) private _approvedIn;

    event Bound(address indexed election, address indexed votes);
    event TaskCreated(
        bytes32 indexed task,
        string name,
        uint32 threshold,
        uint32 maxRegression,
        uint32 minimumOwners,
        uint32 quorumPart,
        bytes32 policy
    );
    event PolicyChanged(bytes32 indexed task, bytes32 policy);
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
        uint96 approved, // the weight that approved
        Verdict reason
    );
    event RoundDeployed(
        bytes32 indexed task, uint64 indexed round, uint64 deployment, bytes32 model, uint32 agents
    );
    event RolledBack(
        bytes32 indexed task,
        uint64 indexed round,
        uint64 deployment,
        bytes32 failed,
        bytes32 model,
        uint32 agents,
        bytes32 report
    );
    event RoundAborted(bytes32 indexed task, uint64 indexed round, string reason);

    error NotInRole(address account, Role role);
    error AlreadyBound(address election, address votes);
    error BoundElsewhere(address election, address votes);
    error NotBound();
    error TaskExists(bytes32 task);
    error UnknownTask(bytes32 task);
    error GateOutOfRange(uint32 threshold, uint32 maxRegression, uint32 minimumOwners, uint32 quorumPart);
    error AccuracyOutOfRange(uint32 accuracy);
    error DigestMissing();
    error GenesisExists(bytes32 task);
    error NotNextRound(uint64 round, uint64 expected);
    error LastRoundNotFinal(uint64 lastRound, RoundState state);
    error NotModelInUse(bytes32 model, bytes32 inUse);
    error PolicyDiffers(bytes32 given, bytes32 current);
    error NobodyElected();
    error NotElected(address validator, uint64 epoch);
    error WrongState(RoundState state);
    error TooFewOwners(uint32 owners, uint32 minimum);
    error ModelKnown(bytes32 model, uint64 round);
    error NothingBefore(bytes32 model);

    modifier onlyParty(Role role) {
        _requireRole(msg.sender, role);
        _;
    }

    constructor(DeviceRegistry devices_) {
        devices = devices_;
    }

    // --- operator, administrator ----------------------------------------------------------------

    /// @notice Name the election and the counter of votes; once, for they are created after this contract.
    function bind(Election election_, QualityVotes votes_) external {
        _requireOperator();
        if (address(votes) != address(0)) revert AlreadyBound(address(election), address(votes));
        if (
            address(election_.rounds()) != address(this) || address(votes_.rounds()) != address(this)
                || address(votes_.election()) != address(election_)
        ) {
            revert BoundElsewhere(address(election_), address(votes_));
        }
        (election, votes) = (election_, votes_);
        emit Bound(address(election_), address(votes_));
    }

    /// @notice Define a task; its gate stays as it is, its policy is the administrator's from now on.
    /// @param name its text; the task's id is its keccak
    function createTask(
        string calldata name,
        uint32 threshold,
        uint32 maxRegression,
        uint32 minimumOwners,
        uint32 quorumPart,
        bytes32 policy
    ) external {
        _requireOperator();
        if (address(votes) == address(0)) revert NotBound();
        bytes32 id = keccak256(bytes(name));
        if (_tasks[id].quorumPart != 0) revert TaskExists(id);
        if (threshold > PPM || maxRegression > PPM || minimumOwners == 0 || !Quorum.isPart(quorumPart)) {
            revert GateOutOfRange(threshold, maxRegression, minimumOwners, quorumPart);
        }
        _requireDigest(policy);
        _tasks[id] = Task(threshold, maxRegression, minimumOwners, quorumPart, 0, 0, 0, policy);
        emit TaskCreated(id, name, threshold, maxRegression, minimumOwners, quorumPart, policy);
    }

    /// @notice Another policy for the rounds to come; one that is open keeps its own.
    function setPolicy(bytes32 task_, bytes32 policy) external {
        _requireRight(devices.DEFAULT_ADMIN_ROLE());
        _requireDigest(policy);
        _requireTask(task_).policy = policy;
        emit PolicyChanged(task_, policy);
    }

    // --- coordinator ------------------------------------------------------------------------

    /// @notice Round 0: M0 as its candidate, straight to `Measured`. For M0 the gate asks for the approvals only.
    function proposeGenesis(bytes32 task_, bytes32 model, bytes32 policy) external onlyParty(Role.Coordinator) {
        Task storage parent = _requireTask(task_);
        Round storage entry = _rounds[task_][0];
        if (entry.state != RoundState.None) revert GenesisExists(task_);
        _requireDigest(model);
        uint64 epoch = _begin(entry, RoundState.Measured, parent, policy);
        entry.model = model;
        emit RoundOpened(task_, 0, 0, policy);
        emit CandidateProposed(task_, 0, 0, model, 0, 0);
        votes.open(task_, 0, epoch, model);
    }

    /// @notice Begin the next round, from the model in use, once the last round is final.
    function openRound(bytes32 task_, uint64 round_, bytes32 base, bytes32 policy)
        external
        onlyParty(Role.Coordinator)
    {
        Task storage parent = _requireTask(task_);
        uint64 last = parent.lastRound;
        if (round_ != last + 1) revert NotNextRound(round_, last + 1);
        _requireFinal(task_, last);
        _requireDigest(base);
        if (base != parent.model) revert NotModelInUse(base, parent.model);
        parent.lastRound = round_;
        Round storage entry = _rounds[task_][round_];
        _begin(entry, RoundState.Open, parent, policy);
        entry.base = base;
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
        uint64 known = _approvedIn[task_][model];
        if (_isOf(_rounds[task_][known], model)) revert ModelKnown(model, known);
        entry.state = RoundState.Measured;
        entry.model = model;
        entry.explanation = explanation;
        emit CandidateProposed(task_, round_, entry.base, model, explanation, accuracy);
        votes.open(task_, round_, entry.epoch, model);
    }

    /// @notice Give a round up; only before a verdict.
    function abort(bytes32 task_, uint64 round_, string calldata reason) external onlyParty(Role.Coordinator) {
        Round storage entry = _rounds[task_][round_];
        if (entry.state < RoundState.Open || entry.state > RoundState.Measured) revert WrongState(entry.state);
        entry.state = RoundState.Aborted;
        emit RoundAborted(task_, round_, reason);
    }

    // --- anybody, with what validators signed -----------------------------------------------------

    /// @notice Validators recomputed the sum. Once a quorum of the elected stake says so it is confirmed; later signatures
    /// are still recorded. One that stands already is passed over, so that nobody can spoil another's batch.
    function attestSums(bytes32 task_, uint64 round_, SumSignature[] calldata signatures) external {
        Round storage entry = _rounds[task_][round_];
        if (entry.state != RoundState.Aggregated && entry.state != RoundState.Confirmed) {
            revert WrongState(entry.state);
        }
        bytes32 signed = Attestations.SumAttestation(
            task_, round_, entry.updatesRoot, entry.sumDigest, entry.owners, entry.weight
        ).structHash();
        uint64 epoch = entry.epoch;
        Election electorate = election;
        Confirmation memory confirmed = _confirmations[task_][round_];
        for (uint256 i; i < signatures.length; ++i) {
            address validator = signatures[i].validator;
            // slither-disable-next-line calls-loop  our own contract, as often as there are seats
            (uint256 weight, uint256 index) = electorate.voteAt(epoch, validator);
            if (weight == 0) revert NotElected(validator, epoch);
            uint128 seat = uint128(1 << index);
            if (confirmed.seats & seat != 0) continue;
            _requireSigned(validator, signed, signatures[i].signature);
            confirmed.seats |= seat;
            confirmed.weight += SafeCast.toUint96(weight);
            emit SumAttested(task_, round_, validator, signatures[i].signature);
        }
        _confirmations[task_][round_] = confirmed;
        uint256 needed = Quorum.weightOf(electorate.totalWeightAt(epoch), _tasks[task_].quorumPart);
        if (entry.state == RoundState.Aggregated && confirmed.weight >= needed) {
            entry.state = RoundState.Confirmed;
            emit SumConfirmed(task_, round_, entry.updatesRoot, entry.sumDigest, entry.owners, entry.weight);
        }
    }

    /// @notice Enter the verdict of the ballot, which is closed now if it is over and nobody closed it.
    function finalise(bytes32 task_, uint64 round_) external {
        Round storage entry = _requireState(task_, round_, RoundState.Measured);
        // slither-disable-next-line reentrancy-benign,reentrancy-events  our own contract, bound once; it only reads here
        QualityVotes.Ballot memory ballot = votes.settle(task_, round_);
        bytes32 model = entry.model;
        (entry.accuracy, entry.baseline) = (ballot.accuracy, ballot.baseline);
        if (ballot.verdict != Verdict.Approved) {
            entry.state = RoundState.Rejected;
            emit RoundRejected(
                task_, round_, model, ballot.accuracy, ballot.baseline, ballot.approved, ballot.verdict
            );
            return;
        }
        Task storage parent = _tasks[task_];
        uint64 deployment = parent.deployment + 1;
        entry.state = RoundState.Approved;
        entry.deployment = deployment;
        parent.deployment = deployment;
        parent.model = model;
        _approvedIn[task_][model] = round_;
        emit RoundApproved(task_, round_, deployment, entry.base, model, ballot.accuracy, ballot.baseline);
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

    /// @notice Back to the parent, under a new number: the listener while canaries try the model, the operator once it is
    /// everywhere. What is in use only ever goes back along the lineage, and never while a round builds on it.
    /// @param agents who had installed the model that is given up
    /// @param report digest of what was observed
    function rollBack(bytes32 task_, uint64 round_, uint32 agents, bytes32 report) external {
        Round storage entry = _rounds[task_][round_];
        Task storage parent = _tasks[task_];
        if (entry.state == RoundState.Approved) {
            _requireRole(msg.sender, Role.Listener);
        } else if (entry.state == RoundState.Deployed) {
            _requireOperator();
            _requireFinal(task_, parent.lastRound);
        } else {
            revert WrongState(entry.state);
        }
        (bytes32 failed, bytes32 model) = (entry.model, entry.base);
        if (failed != parent.model) revert NotModelInUse(failed, parent.model);
        if (model == 0) revert NothingBefore(failed);
        _requireDigest(report);
        uint64 deployment = parent.deployment + 1;
        entry.state = RoundState.RolledBack;
        parent.deployment = deployment;
        parent.model = model;
        emit RolledBack(task_, round_, deployment, failed, model, agents, report);
    }

    // --- views ------------------------------------------------------------------------------

    /// @notice A task; its quorum part is 0 if it is unknown.
    function task(bytes32 task_) external view returns (Task memory) {
        return _tasks[task_];
    }

    /// @notice A round; its state is `None` if there is none.
    function round(bytes32 task_, uint64 round_) external view returns (Round memory) {
        return _rounds[task_][round_];
    }

    /// @notice Parent, round and deployment number of an approved model.
    function lineage(bytes32 task_, bytes32 model) external view returns (Lineage memory found) {
        uint64 round_ = _approvedIn[task_][model];
        Round storage entry = _rounds[task_][round_];
        if (!_isOf(entry, model)) return found;
        return Lineage(entry.base, round_, entry.deployment, entry.state == RoundState.RolledBack);
    }

    /// @notice What validators sign of a measured candidate, less what each of them measures.
    function measured(bytes32 task_, uint64 round_)
        external
        view
        returns (Attestations.ModelAttestation memory attestation)
    {
        Round storage entry = _requireState(task_, round_, RoundState.Measured);
        (attestation.task, attestation.round) = (task_, round_);
        attestation.deployment = _tasks[task_].deployment + 1;
        (attestation.parent, attestation.model) = (entry.base, entry.model);
    }

    // --- inside -----------------------------------------------------------------------------

    /// @dev A round takes the electorate and the policy of its beginning, and keeps both.
    function _begin(Round storage entry, RoundState state, Task storage parent, bytes32 policy)
        private
        returns (uint64 epoch)
    {
        if (policy != parent.policy) revert PolicyDiffers(policy, parent.policy);
        epoch = election.epoch();
        if (epoch == 0) revert NobodyElected();
        (entry.state, entry.epoch, entry.openedBlock) = (state, epoch, uint64(block.number));
        entry.policy = policy;
    }

    function _requireOperator() private view {
        _requireRight(devices.OPERATOR_ROLE());
    }

    function _requireRight(bytes32 right) private view {
        if (!devices.hasRole(right, msg.sender)) {
            revert IAccessControl.AccessControlUnauthorizedAccount(msg.sender, right);
        }
    }

    function _requireRole(address account, Role role) private view {
        if (!devices.isActive(account, role)) revert NotInRole(account, role);
    }

    function _requireTask(bytes32 task_) private view returns (Task storage found) {
        found = _tasks[task_];
        if (found.quorumPart == 0) revert UnknownTask(task_);
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

    function _requireFinal(bytes32 task_, uint64 round_) private view {
        RoundState state = _rounds[task_][round_].state;
        if (state < RoundState.Rejected) revert LastRoundNotFinal(round_, state); // else deployed, rolled back or aborted
    }

    /// @dev Whether a round is the one that approved `model`; `_approvedIn` names round 0 for M0 and for the unknown.
    function _isOf(Round storage entry, bytes32 model) private view returns (bool) {
        return entry.model == model && entry.deployment != 0;
    }
}
